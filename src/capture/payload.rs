//! What a user's datagram carries, where a push should say so: SIP MESSAGE and WAP push.

/// Ports of WAP push at the terminal, without and with security (IANA: wap-push, wap-pushsecure).
const WAP_PUSH_PORTS: [u16; 2] = [2948, 2949];
/// WSP's Push, a PDU type of connectionless mode (WAP-230-WSP, clause 8.2.4.1).
const WSP_PUSH: u8 = 0x06;
/// The longest media type that is passed on: what fits an option.
const MEDIA_TYPE_MAX: usize = 255;

/// Media types that WSP has numbers for and push uses (WAP-230-WSP, appendix A).
const WSP_MEDIA_TYPES: [(u8, &str); 12] = [
    (0x02, "text/html"),
    (0x03, "text/plain"),
    (0x2D, "text/vnd.wap.si"),
    (0x2E, "application/vnd.wap.sic"),
    (0x2F, "text/vnd.wap.sl"),
    (0x30, "application/vnd.wap.slc"),
    (0x31, "text/vnd.wap.co"),
    (0x32, "application/vnd.wap.coc"),
    (0x33, "application/vnd.wap.multipart.related"),
    (0x36, "application/vnd.wap.connectivity-wbxml"),
    (0x3E, "application/vnd.wap.mms-message"),
    (0x44, "application/vnd.syncml.notification"),
];

/// What a payload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Payload<'a> {
    /// A SIP MESSAGE request (RFC 3428).
    SipMessage,
    /// A WAP push: a unit push PDU, and the media type of its content where that can be read.
    WapPush(Option<&'a str>),
    /// Anything else.
    Other,
}

impl<'a> Payload<'a> {
    /// What came to this port.
    pub(super) fn of(payload: &'a [u8], port: u16) -> Self {
        if is_sip_message(payload) {
            return Self::SipMessage;
        }
        match payload {
            [_, WSP_PUSH, rest @ ..] if WAP_PUSH_PORTS.contains(&port) => wap_push(rest),
            _ => Self::Other,
        }
    }

    /// The media type of the whole payload. A WAP push stays the PDU that the terminal expects, so what
    /// is said is what it brings.
    pub(super) const fn media_type(self) -> Option<&'a str> {
        match self {
            Self::SipMessage => Some("message/sip"),
            Self::WapPush(media_type) => media_type,
            Self::Other => None,
        }
    }
}

/// A request line: `MESSAGE`, a URI, `SIP/2.0`.
fn is_sip_message(payload: &[u8]) -> bool {
    let Some(rest) = payload.strip_prefix(b"MESSAGE ") else { return false };
    let line = rest.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or_default();
    line.ends_with(b" SIP/2.0")
}

/// Behind transaction identifier and type: the length of the headers, the first of which is the type of
/// the content.
fn wap_push(pdu: &[u8]) -> Payload<'_> {
    let Some((length, rest)) = uintvar(pdu) else { return Payload::Other };
    let Some(headers) = rest.get(..length) else { return Payload::Other };
    let media_type = match *headers {
        [short @ 0x80..=0xFF, ..] => numbered(short),
        // A value with parameters: its length, then the type as one number or as text.
        [length @ 1..=30, ref value @ ..] => value.get(..length.into()).and_then(number_or_text),
        [31, ref value @ ..] => {
            uintvar(value).and_then(|(length, value)| number_or_text(value.get(..length)?))
        }
        _ => text(headers),
    };
    Payload::WapPush(media_type)
}

fn number_or_text(value: &[u8]) -> Option<&str> {
    match *value {
        [short @ 0x80..=0xFF, ..] => numbered(short),
        _ => text(value),
    }
}

fn numbered(short: u8) -> Option<&'static str> {
    let code = short & 0x7F;
    WSP_MEDIA_TYPES.iter().find(|(number, _)| *number == code).map(|(_, name)| *name)
}

/// A text that ends with a zero, if it can be a media type.
fn text(value: &[u8]) -> Option<&str> {
    let end = value.iter().position(|byte| *byte == 0)?;
    let text = std::str::from_utf8(value.get(..end)?).ok()?;
    (text.len() <= MEDIA_TYPE_MAX && text.contains('/') && text.bytes().all(|byte| byte.is_ascii_graphic()))
        .then_some(text)
}

/// Seven bits an octet, the highest bit saying that more follow; at most 32 bits.
fn uintvar(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let len = bytes.iter().take(5).position(|byte| byte & 0x80 == 0)? + 1;
    let (digits, rest) = bytes.split_at(len);
    let value = digits.iter().fold(0u64, |value, byte| value << 7 | u64::from(byte & 0x7F));
    Some((usize::try_from(value).ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sip_message_is_known_by_its_request_line() {
        fn of(text: &str) -> Payload<'_> {
            Payload::of(text.as_bytes(), 5060)
        }
        let message = of("MESSAGE sip:ann@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1\r\n\r\nhello");
        assert_eq!((message, message.media_type()), (Payload::SipMessage, Some("message/sip")));
        for other in [
            "INVITE sip:ann@example.org SIP/2.0\r\n\r\n",
            "MESSAGE in a bottle\r\nSIP/2.0",
            "MESSAGE",
            "SIP/2.0 200 OK\r\nCSeq: 1 MESSAGE\r\n\r\n",
        ] {
            assert_eq!(of(other), Payload::Other, "{other}");
        }
    }

    #[test]
    fn a_wap_push_names_what_it_brings() {
        let of = |headers: &[u8]| {
            let pdu = [&[9, 6, headers.len() as u8][..], headers, b"body"].concat();
            assert_eq!(Payload::of(&pdu, 5060), Payload::Other, "another port");
            match Payload::of(&pdu, 2948) {
                Payload::WapPush(media_type) => media_type.map(str::to_owned),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(of(&[0xAE, 0xAF, 0x82]).unwrap(), "application/vnd.wap.sic");
        assert_eq!(of(&[0xBE]).unwrap(), "application/vnd.wap.mms-message");
        assert_eq!(of(&[3, 0xAE, 0x81, 0x84, 0xAF]).unwrap(), "application/vnd.wap.sic");
        assert_eq!(of(b"application/x-own\0\xAF").unwrap(), "application/x-own");
        assert_eq!(of(b"\x0Etext/x-bytes\0\x81").unwrap(), "text/x-bytes");
        assert_eq!(of(b"\x1F\x80\x0Etext/x-bytes\0\x81").unwrap(), "text/x-bytes");
        for unreadable in [&b""[..], &[0xFF], b"no slash\0", b"text/unended", &[9, 0xAE], &[0]] {
            assert_eq!(of(unreadable), None);
        }
        for broken in
            [&[9, 6][..], &[9, 6, 200, 0xAE], &[9, 6, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], &[9, 7, 1, 0xAE]]
        {
            assert_eq!(Payload::of(broken, 2948), Payload::Other);
        }
    }
}
