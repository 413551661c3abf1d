//! Create, Update and Delete PDP Context: their elements as fields.

use std::fmt;
use std::net::IpAddr;

use super::element::{EndUserAddress, Ie, IeFault, Ies, Msisdn, gsn_address, ie};
use crate::id::Imsi;

/// The elements of a Create, Update or Delete PDP Context Request or Response (TS 29.060 §7.3.1 to
/// §7.3.6) that say who has which address behind which node. What a message does not carry, or
/// carries with a wrong value, is `None`; of a repeated element the first counts (§11.1.12), except
/// that the second GSN Address is the user plane's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pdp<'a> {
    /// Cause; 128 to 191 is acceptance.
    pub cause: Option<u8>,
    /// The subscriber.
    pub imsi: Option<Imsi>,
    /// The sender's restart counter.
    pub recovery: Option<u8>,
    /// TEID for G-PDUs to the sender.
    pub teid_data: Option<u32>,
    /// TEID for messages to the sender.
    pub teid_control: Option<u32>,
    /// Whether all contexts of the address end (Delete).
    pub teardown: Option<bool>,
    /// Which of the subscriber's contexts, 0 to 15.
    pub nsapi: Option<u8>,
    /// Charging ID, unique in its GGSN.
    pub charging_id: Option<u32>,
    /// End User Address.
    pub end_user: Option<EndUserAddress>,
    /// Access Point Name.
    pub apn: Option<Apn<'a>>,
    /// The sender's address for signalling: the first GSN Address.
    pub gsn_control: Option<IpAddr>,
    /// The sender's address for G-PDUs: the second GSN Address.
    pub gsn_user: Option<IpAddr>,
    /// The subscriber's number.
    pub msisdn: Option<Msisdn<'a>>,
    /// Elements whose value has the wrong length or form.
    pub bad_values: u8,
    /// What ended the reading before the message's end.
    pub fault: Option<IeFault>,
}

impl<'a> Pdp<'a> {
    /// Reads a message's elements, as far as they can be read.
    pub fn read(ies: Ies<'a>) -> Self {
        let mut pdp = Self::default();
        let mut gsn_addresses = 0u8;
        for element in ies {
            match element {
                Ok(element) => {
                    if !pdp.take(element, &mut gsn_addresses) {
                        pdp.bad_values = pdp.bad_values.saturating_add(1);
                    }
                }
                Err(fault) => pdp.fault = Some(fault),
            }
        }
        pdp
    }

    /// Whether the cause is an acceptance (TS 29.060 §7.7.1: the top two bits are 10).
    pub fn accepted(&self) -> bool {
        self.cause.is_some_and(|cause| cause >> 6 == 2)
    }

    /// Takes one element; false when its value is wrong.
    fn take(&mut self, Ie { kind, value }: Ie<'a>, gsn_addresses: &mut u8) -> bool {
        match kind {
            ie::CAUSE => first(&mut self.cause, octet(value)),
            ie::IMSI => first(&mut self.imsi, <[u8; 8]>::try_from(value).ok().and_then(Imsi::from_tbcd)),
            ie::RECOVERY => first(&mut self.recovery, octet(value)),
            ie::TEID_DATA => first(&mut self.teid_data, word(value)),
            ie::TEID_CONTROL => first(&mut self.teid_control, word(value)),
            ie::TEARDOWN => first(&mut self.teardown, octet(value).map(|octet| octet & 1 == 1)),
            ie::NSAPI => first(&mut self.nsapi, octet(value).map(|octet| octet & 15)),
            ie::CHARGING_ID => first(&mut self.charging_id, word(value)),
            ie::END_USER_ADDRESS => first(&mut self.end_user, EndUserAddress::parse(value)),
            ie::APN => first(&mut self.apn, Apn::parse(value)),
            ie::GSN_ADDRESS => {
                *gsn_addresses = gsn_addresses.saturating_add(1);
                match *gsn_addresses {
                    1 => first(&mut self.gsn_control, gsn_address(value)),
                    2 => first(&mut self.gsn_user, gsn_address(value)),
                    _ => true,
                }
            }
            ie::MSISDN => first(&mut self.msisdn, (!value.is_empty()).then_some(Msisdn(value))),
            _ => true,
        }
    }
}

/// Fills `slot` unless it holds an earlier value; false when there is none to fill it with.
fn first<T>(slot: &mut Option<T>, value: Option<T>) -> bool {
    let good = value.is_some();
    if slot.is_none() {
        *slot = value;
    }
    good
}

fn octet(value: &[u8]) -> Option<u8> {
    value.first().copied()
}

fn word(value: &[u8]) -> Option<u32> {
    <[u8; 4]>::try_from(value).ok().map(u32::from_be_bytes)
}

/// An Access Point Name (TS 23.003 §9): labels with their lengths, shown with dots between. What is
/// no printable ASCII is shown as `?`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Apn<'a>(&'a [u8]);

impl<'a> Apn<'a> {
    /// From the element's value. `None` when it is empty, longer than 100 octets, or a label passes
    /// its end.
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let mut rest = value;
        while let Some((len, after)) = rest.split_first() {
            rest = after.split_at_checked(usize::from(*len))?.1;
        }
        (1..=100).contains(&value.len()).then_some(Self(value))
    }
}

impl fmt::Display for Apn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use std::fmt::Write;
        let mut rest = self.0;
        let mut dot = "";
        while let Some((len, after)) = rest.split_first() {
            let Some((label, after)) = after.split_at_checked(usize::from(*len)) else { break };
            f.write_str(dot)?;
            for byte in label {
                f.write_char(if byte.is_ascii_graphic() { char::from(*byte) } else { '?' })?;
            }
            dot = ".";
            rest = after;
        }
        Ok(())
    }
}

impl fmt::Debug for Apn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
