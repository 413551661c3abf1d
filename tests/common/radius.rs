//! Accounting-Requests, written and read here by hand.

#![allow(dead_code, reason = "each test that includes this module uses a part of it")]

use std::net::IpAddr;

use md5::{Digest, Md5};
use pushplane::config::{Identify, Radius, RadiusClient, Secret};

pub(crate) const SECRET: &[u8] = b"testing123";
/// The GGSN that most tests hear, and another one.
pub(crate) const GGSN: &str = "10.255.0.1:40000";
pub(crate) const OTHER_GGSN: &str = "10.255.0.2:40000";
/// One whose addresses lie in realm 9.
pub(crate) const VPN_GGSN: &str = "10.255.9.1:40000";

pub(crate) const START: u32 = 1;
pub(crate) const STOP: u32 = 2;
pub(crate) const INTERIM: u32 = 3;
pub(crate) const ON: u32 = 7;
pub(crate) const OFF: u32 = 8;

/// Whoever lives in 10.255.0.0/16 knows the secret.
pub(crate) fn radius() -> Radius {
    let client = |prefix: &str, len, realm| RadiusClient {
        prefix: (prefix.parse().unwrap(), len),
        secret: Secret::new(SECRET),
        realm,
    };
    Radius {
        listen: vec!["192.0.2.1:1813".parse().unwrap()],
        realm: 0,
        identify: vec![Identify::Imsi, Identify::CallingStation, Identify::UserName],
        port: 17400,
        session_max_s: 86_400,
        clients: vec![client("10.255.9.0", 24, Some(9)), client("10.255.0.0", 16, None)],
        apns: vec![("vpn.example".to_owned(), 9)],
    }
}

/// An Accounting-Request.
#[derive(Clone, Debug)]
pub(crate) struct Acct {
    identifier: u8,
    attributes: Vec<(u8, Vec<u8>)>,
}

impl Acct {
    pub(crate) fn new(status: u32) -> Self {
        Self { identifier: 1, attributes: Vec::new() }.with(40, &status.to_be_bytes())
    }

    /// Of a session.
    pub(crate) fn of(status: u32, session: &str) -> Self {
        Self::new(status).with(44, session.as_bytes())
    }

    pub(crate) fn with(mut self, ty: u8, value: &[u8]) -> Self {
        self.attributes.push((ty, value.to_vec()));
        self
    }

    fn vendor(self, ty: u8, value: &[u8]) -> Self {
        self.with(26, &[&10_415u32.to_be_bytes()[..], &[ty, value.len() as u8 + 2], value].concat())
    }

    pub(crate) fn identifier(self, identifier: u8) -> Self {
        Self { identifier, ..self }
    }

    pub(crate) fn ip(self, address: &str) -> Self {
        match address.parse().unwrap() {
            IpAddr::V4(v4) => self.with(8, &v4.octets()),
            IpAddr::V6(v6) => self.with(97, &[&[0, 64], &v6.octets()[..8]].concat()),
        }
    }

    pub(crate) fn interface(self, interface: u64) -> Self {
        self.with(96, &interface.to_be_bytes())
    }

    pub(crate) fn imsi(self, digits: &str) -> Self {
        self.vendor(1, digits.as_bytes())
    }

    pub(crate) fn nsapi(self, digit: &str) -> Self {
        self.vendor(10, digit.as_bytes())
    }

    pub(crate) fn ggsn(self, address: [u8; 4]) -> Self {
        self.vendor(7, &address)
    }

    pub(crate) fn stops_all(self) -> Self {
        self.vendor(11, &[0xFF])
    }

    pub(crate) fn nas(self, address: [u8; 4]) -> Self {
        self.with(4, &address)
    }

    pub(crate) fn number(self, digits: &str) -> Self {
        self.with(31, digits.as_bytes())
    }

    /// When it happened, by the clock of who sends it.
    pub(crate) fn at(self, unix_ms: u64) -> Self {
        self.with(55, &u32::try_from(unix_ms / 1000).unwrap().to_be_bytes())
    }

    pub(crate) fn delay(self, seconds: u32) -> Self {
        self.with(41, &seconds.to_be_bytes())
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.signed(SECRET)
    }

    pub(crate) fn signed(&self, secret: &[u8]) -> Vec<u8> {
        let mut bytes = vec![4, self.identifier, 0, 0];
        bytes.extend([0; 16]);
        for (ty, value) in &self.attributes {
            bytes.extend([*ty, value.len() as u8 + 2]);
            bytes.extend(value);
        }
        let length = (bytes.len() as u16).to_be_bytes();
        bytes[2..4].copy_from_slice(&length);
        let digest = Md5::digest([&bytes[..], secret].concat());
        bytes[4..20].copy_from_slice(&digest);
        bytes
    }
}

/// Asserts that an answer is that of the request, and what the server must bring back.
#[track_caller]
pub(crate) fn assert_answers(answer: &[u8], request: &[u8]) {
    let mut expected = vec![5, request[1], 0, 0];
    expected.extend(&request[4..20]);
    let mut rest = &request[20..];
    while let [ty, length, ..] = *rest {
        let (attribute, after) = rest.split_at(length.into());
        if ty == 33 {
            expected.extend(attribute);
        }
        rest = after;
    }
    let length = (expected.len() as u16).to_be_bytes();
    expected[2..4].copy_from_slice(&length);
    let digest = Md5::digest([&expected[..], SECRET].concat());
    expected[4..20].copy_from_slice(&digest);
    assert_eq!(answer, expected);
}
