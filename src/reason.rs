//! Why a message was not delivered: one row per reason makes the enum, the wire code, the metric
//! label and the operator's words, so that they cannot disagree.

macro_rules! reasons {
    ($($code:literal $variant:ident $name:literal, $text:literal, $remedy:literal;)+) => {
        /// A reason of PRP/1 (`PROTOCOL.md`, "Reasons"). The discriminant is the code on the wire.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $text] $variant = $code,)+
        }

        impl Reason {
            /// Every reason, in the order of the codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in `PROTOCOL.md`: the metric label and what scripts read.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What happened, in a sentence for an operator.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// What an operator can do about it.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)+ }
            }

            /// The reason with this wire code.
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

reasons! {
    1 Malformed "malformed", "the datagram is not a message of PRP/1", "look at the sender: its encoder breaks a rule of the header or of an option";
    2 UnsupportedVersion "unsupported-version", "the datagram has another version than 1", "send version 1";
    3 UnsupportedOption "unsupported-option", "the message has a critical option that is unknown here", "send it without the option, or upgrade this server";
    4 ApplicationNotAllowed "application-not-allowed", "the application identifier is not on the allowlist", "add it to apps.toml if it may push";
    5 SourceAddressNotAllowed "source-address-not-allowed", "the sender's address may not push for this application", "add its prefix to the application's `sources`, or set `users` if terminals may push";
    6 AuthenticationFailed "authentication-failed", "the signature is missing, wrong, or made with a key that does not belong here", "compare keys.toml on both sides";
    7 StaleOrReplayed "stale-or-replayed", "the signature's time is more than 30 s off, or the message was seen before", "synchronise the clocks; take a new message identifier for each message";
    8 UnknownSource "unknown-source", "the source Push ID is no known user and the policy wants one", "register the source or relax policy.known_sources";
    9 UnknownDestination "unknown-destination", "the destination Push ID is no known user of this server", "check the Push ID; add the user to users.csv if it is one";
    10 NoRoute "no-route", "no Push server owns a prefix of the destination that the message may be sent to", "add the prefix to servers.toml";
    11 HopLimit "hop-limit", "the message passed too many Push servers", "look for servers that send a prefix to each other";
    12 NoGateway "no-gateway", "no gateway serves the terminal's private address", "add its segment to segments.csv";
    13 NotAttached "not-attached", "the user is known but no terminal of it can be reached now", "nothing: the terminal is off or gone";
    14 GatewayFailed "gateway-failed", "the gateway or next hop cannot be reached", "look at the path to the gateway";
    15 Expired "expired", "the message's deadline has passed", "nothing: the sender called it worthless by now";
    16 RateLimited "rate-limited", "the application sends more than its rate", "raise `rate` in apps.toml or slow the sender";
    17 Overloaded "overloaded", "this server cannot take or send more at present", "add shards or servers; look at the send buffers";
    18 TooLarge "too-large", "the datagram is longer than this server or the path takes", "send shorter messages or raise server.datagram_max and the path's MTU";
    19 UnknownGroup "unknown-group", "the destination group is not served here", "check the group identifier";
    20 NotPermitted "not-permitted", "the sender may not ask for this", "check policy.register and the rights of the group";
    21 BearerFailed "bearer-failed", "the terminal does not take messages over this bearer", "nothing: the terminal said so";
    22 UnknownName "unknown-name", "nobody has this name", "check the name; add it to names.csv if it is one";
    23 NoPeerAddress "no-peer-address", "the other side has no address that could be given", "nothing: it is not attached or lives in another realm";
    24 UnsupportedKind "unsupported-kind", "this server does not take messages of this kind", "send it to a server that does, or upgrade this one";
}

impl Reason {
    /// How many reasons there are: the length of an array indexed by [`Reason::index`].
    pub const COUNT: usize = Self::ALL.len();

    /// The place in [`Reason::ALL`].
    pub const fn index(self) -> usize {
        self as usize - 1
    }

    /// The code in the Reason option.
    pub const fn code(self) -> u16 {
        self as u16
    }
}

macro_rules! unanswered {
    ($($variant:ident $name:literal, $text:literal;)+) => {
        /// Why a packet at the RADIUS port is not answered: its sender tries again, or nobody sent it that may.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Unanswered {
            $(#[doc = $text] $variant,)+
        }

        impl Unanswered {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The metric label.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

unanswered! {
    UnknownClient "unknown-client", "no [[radius.client]] has the address that it came from";
    Malformed "malformed", "its lengths contradict each other, or it lacks an attribute that it must have";
    NotAccounting "not-accounting", "it is no Accounting-Request";
    WrongAuthenticator "wrong-authenticator", "its sender does not know the client's secret";
    Repeated "repeated", "it is being worked on already, and is answered once";
    Overloaded "overloaded", "there is no room for it, or nothing can be made durable any more";
}

impl Unanswered {
    /// How many there are: the length of an array indexed by [`Unanswered::index`].
    pub const COUNT: usize = Self::ALL.len();

    /// The place in [`Unanswered::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_places_in_the_list() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
        }
        assert_eq!(Reason::from_code(0), None);
        assert_eq!(Reason::from_code(25), None);
    }
}
