#!/usr/bin/env python3
"""Makes the PRP/1 test vectors: prp.tsv and cmac.tsv beside this file.

    python3 tests/vectors/prp.py            writes both files
    python3 tests/vectors/prp.py --check    exits 1 if the files are not what would be written
    python3 tests/vectors/prp.py --corpus D writes each datagram to a file of its own in the folder D,
                                            where a fuzzer starts from

This is an encoder written from the protocol page alone. It shares no code with the engine's codec and
contains no parser: what a row expects is what its datagram was made from, so that a mistake made
twice the same way is unlikely. AES-128-CMAC comes from the `openssl` program (version 3), a third
party to both sides, and is held against the four examples of RFC 4493 before any row is written.

Nothing here depends on the clock or on chance: every run writes the same bytes.
"""

import ipaddress
import struct
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

# ---------------------------------------------------------------------------------------------
# The words of the protocol page.

KINDS = {
    1: "PUSH", 2: "RECEIPT", 3: "REJECT", 4: "REGISTER", 5: "REGISTERED", 6: "RELEASE", 7: "RELEASED",
    8: "GROUP", 9: "GROUPED", 10: "RESOLVE", 11: "RESOLVED", 12: "ECHO", 13: "ECHOED", 14: "INTRODUCE",
}  # fmt: skip
KIND = {name: code for code, name in KINDS.items()}

RECEIPT, PRIORITY, ROAMED, GROUP = 1, 2, 4, 8

ADDRESS_OPTIONS = {3: "private_address", 4: "nat_address", 12: "serving_server", 14: "source_address", 15: "peer_address"}

# Two users of one operator, and what most rows say.
ALICE = bytes.fromhex("300000000000000000000000deadbeef")
BOB = bytes.fromhex("3fffffffffffffffffffffff00c0ffee")
NOBODY = bytes(16)
MESSAGE = 0x0123456789ABCDEF
KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
OTHER_KEY = bytes.fromhex("000102030405060708090a0b0c0d0e0f")
NOW = 1767225600000  # 2026-01-01T00:00:00Z


def cmac(key, message):
    """AES-128-CMAC (RFC 4493) by the openssl program."""
    out = subprocess.run(
        ["openssl", "mac", "-cipher", "AES-128-CBC", "-macopt", "hexkey:" + key.hex(), "-in", "-", "CMAC"],
        input=message, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return bytes.fromhex(out.stdout.decode().strip())


# ---------------------------------------------------------------------------------------------
# Options. Each is (type, value, what a parser must report for it).


def option(kind, value, **fields):
    return (kind, bytes(value), fields)


def deadline(ms):
    return option(1, struct.pack(">Q", ms), deadline=ms)


def device(number):
    return option(2, [number], device=number)


def endpoint(ip, port):
    return ipaddress.ip_address(ip).packed + struct.pack(">H", port)


def address(kind, ip, port):
    shown = f"[{ipaddress.ip_address(ip)}]:{port}" if ":" in ip else f"{ip}:{port}"
    return option(kind, endpoint(ip, port), **{ADDRESS_OPTIONS[kind]: shown})


def private(ip, port):
    return address(3, ip, port)


def realm(number):
    return option(5, struct.pack(">I", number), realm=number)


def tbcd(digits):
    """Eight octets, low nibble first, filled with 0xF."""
    nibbles = [int(digit, 16) for digit in digits] + [15] * (16 - len(digits))
    return bytes(nibbles[i] | nibbles[i + 1] << 4 for i in range(0, 16, 2))


def imsi(digits):
    return option(6, tbcd(digits), imsi=digits)


def validity(seconds):
    return option(7, struct.pack(">I", seconds), validity=seconds)


def dynamic_id(value):
    return option(8, value, dynamic_id=value.hex())


def reason(code, text=""):
    return option(9, struct.pack(">H", code) + text.encode(), reason=code, reason_text=text.encode().hex())


def name(text):
    return option(10, text.encode(), name=text.encode().hex())


def group_id(value):
    return option(11, value, group_id=value.hex())


def bearers(bits):
    return option(13, struct.pack(">I", bits), bearers=bits)


def listen_port(port):
    return option(16, struct.pack(">H", port), listen_port=port)


def content_type(text):
    return option(17, text.encode("ascii"), content_type=text.encode().hex())


def group_request(operation, rest=bytes(3)):
    return option(18, bytes([operation]) + rest, group_request=operation)


def payload_length(length):
    return option(19, struct.pack(">H", length), payload_length=length)


def auth(key_id, time, tag=bytes(16)):
    return option(128, struct.pack(">IQ", key_id, time) + tag, auth_key=key_id, auth_time=time)


def encode_option(kind, value):
    """Type, length, value, zero bytes up to a multiple of four."""
    body = bytes([kind, len(value)]) + value
    return body + bytes(-len(body) % 4)


# ---------------------------------------------------------------------------------------------
# Messages.


class Message:
    """One datagram and what it says."""

    def __init__(self, kind, *options, flags=0, hop=8, app=0, to=ALICE, source=BOB, message=MESSAGE, payload=b"", version=1):
        self.kind = KIND[kind] if isinstance(kind, str) else kind
        self.version, self.flags, self.hop, self.app = version, flags, hop, app
        self.to, self.source, self.message = to, source, message
        self.options, self.payload = list(options), payload
        self.signed_with = None
        self.tag = None

    def sign(self, key, key_id=1, time=NOW, spoil=0):
        """Adds Auth at the end. `spoil` flips bits of the tag's last byte."""
        self.options.append(auth(key_id, time))
        unsigned = self.encode()
        tag = bytearray(cmac(key, unsigned))
        tag[-1] ^= spoil
        self.tag, self.signed_with, self.spoilt = bytes(tag), key, spoil != 0
        self.options[-1] = auth(key_id, time, self.tag)
        return self

    def encode(self, words=None):
        """The datagram; `words` lies about the header length."""
        options = b"".join(encode_option(kind, value) for kind, value, _ in self.options)
        true_words, rest = divmod(48 + len(options), 4)
        assert rest == 0 and (words is not None or true_words <= 255)
        head = bytes([self.version << 4 | self.kind, self.flags, self.hop, true_words if words is None else words])
        head += struct.pack(">I", self.app) + self.to + self.source + struct.pack(">Q", self.message)
        assert len(head) == 48
        return head + options + self.payload

    def expected(self):
        """The fields, in the order of the header, then those of the options."""
        names = [n for bit, n in ((1, "receipt"), (2, "priority"), (4, "roamed"), (8, "group")) if self.flags & bit]
        header_words = (48 + sum(len(encode_option(k, v)) for k, v, _ in self.options)) // 4
        fields = {
            "kind": KINDS[self.kind],
            "flags": f"{self.flags:02x}",
            "flag_names": ",".join(names),
            "hop": self.hop,
            "header_words": header_words,
            "app": self.app,
            "destination": self.to.hex(),
            "source": self.source.hex(),
            "message": f"{self.message:016x}",
            "options": ",".join(f"{kind}:{value.hex()}" for kind, value, _ in self.options),
        }
        for _, _, values in self.options:
            fields.update(values)
        if self.tag is not None:
            fields["auth_tag"] = self.tag.hex()
            fields["auth_secret"] = self.signed_with.hex()
            fields["auth_valid"] = "false" if self.spoilt else "true"
        shown = self.payload
        if "payload_length" in fields:
            shown = shown[: fields["payload_length"]]
        fields["payload"] = shown.hex()
        return fields


ROWS = []


def row(title, datagram, fields):
    assert title not in {t for t, _, _ in ROWS}, title
    text = " ".join(f"{key}={value}" for key, value in fields.items())
    assert "\t" not in text and "\n" not in text
    ROWS.append((title, datagram.hex(), text))


def good(title, message, **more):
    row(title, message.encode(), message.expected() | more)


def refused(title, datagram, rule, error="malformed"):
    """A datagram that ends in `error`; `rule` names what is wrong with it. From 48 bytes on the
    message identifier can be read, so that a REJECT can name it."""
    fields = {"error": error, "rule": rule}
    if len(datagram) >= 48:
        fields["message"] = datagram[40:48].hex()
    row(title, datagram, fields)


def push(*options, **more):
    more.setdefault("app", 7)
    more.setdefault("payload", b"hello")
    return Message("PUSH", *options, **more)


# ---------------------------------------------------------------------------------------------
# Every kind, as small as it may be.

good("push-bare", Message("PUSH", app=7))
good("push-payload", push())
good("push-no-source", push(source=NOBODY))
good("push-application-0", push(app=0))
good("push-application-largest", push(app=0xFFFFFFFF))
good("receipt", Message("RECEIPT"))
good("reject", Message("REJECT", reason(13)))
good("register-listen-port", Message("REGISTER", listen_port(2949), source=NOBODY))
good("register-private-address", Message("REGISTER", private("10.20.0.7", 2949), source=NOBODY))
good("register-serving-server", Message("REGISTER", address(12, "198.51.100.2", 17400), source=NOBODY))
good("registered", Message("REGISTERED", validity(3600)))
good("release-device", Message("RELEASE", device(1), source=NOBODY))
good("release-private-address", Message("RELEASE", private("10.20.0.7", 2949), realm(3), source=NOBODY))
good("release-imsi", Message("RELEASE", imsi("460001234567890"), source=NOBODY))
good("released", Message("RELEASED"))
for operation, verb in ((1, "create"), (2, "join"), (3, "leave"), (4, "list"), (5, "delete")):
    good(f"group-{verb}", Message("GROUP", group_request(operation), group_id(BOB), source=NOBODY))
good("grouped-list", Message("GROUPED", group_request(4), group_id(BOB), payload=ALICE + BOB))
good("resolve", Message("RESOLVE", name("alice"), to=NOBODY, source=BOB))
good("resolved", Message("RESOLVED", to=ALICE, source=NOBODY))
good("echo", Message("ECHO", payload=b"ping"))
good("echoed", Message("ECHOED", payload=b"ping"))
good("introduce-request", Message("INTRODUCE"))
good("introduce-told", Message("INTRODUCE", address(15, "203.0.113.9", 40001)))

# What "needs" asks for is absent. The options themselves are well formed, so the fields are given;
# `missing` says what the kind needs.
good("reject-without-reason", Message("REJECT"), missing="Reason")
good("register-without-any-address", Message("REGISTER", validity(60), source=NOBODY), missing="ListenPort|PrivateAddress|ServingServer")
good("registered-without-validity", Message("REGISTERED"), missing="Validity")
good("release-without-what", Message("RELEASE", source=NOBODY), missing="Device|PrivateAddress|Imsi")
good("group-without-request", Message("GROUP", group_id(BOB), source=NOBODY), missing="GroupRequest")
good("grouped-without-request", Message("GROUPED", group_id(BOB)), missing="GroupRequest")
good("resolve-without-name", Message("RESOLVE", to=NOBODY, source=BOB), missing="Name")

# ---------------------------------------------------------------------------------------------
# The header's other fields.

for flag, title in ((RECEIPT, "receipt"), (PRIORITY, "priority"), (ROAMED, "roamed"), (GROUP, "group")):
    good(f"flag-{title}", push(flags=flag))
good("flags-all", push(flags=RECEIPT | PRIORITY | ROAMED | GROUP))
good("flags-reserved-ignored", push(flags=0xF0))
good("flags-every-bit", push(flags=0xFF))
good("hop-limit-0-is-no-fault", push(hop=0))
good("hop-limit-255", push(hop=255))
good("message-0", push(message=0))
good("message-largest", push(message=0xFFFFFFFFFFFFFFFF))
good("steering-bytes", push(to=bytes(range(16)), source=bytes(range(16, 32))))

# ---------------------------------------------------------------------------------------------
# Every option, at the ends of what it can hold.

good("deadline-0", push(deadline(0)))
good("deadline", push(deadline(NOW + 30000)))
good("deadline-largest", push(deadline(2**64 - 1)))
good("device-0-is-all", push(device(0)))
good("device-255", push(device(255)))
for kind, title in ADDRESS_OPTIONS.items():
    base = "REGISTER" if kind == 12 else "PUSH"
    good(f"{title.replace('_', '-')}-v4", Message(base, address(kind, "10.20.0.7", 2949), payload=b"x"))
    good(f"{title.replace('_', '-')}-v6", Message(base, address(kind, "fd20::7", 65535), payload=b"x"))
good("private-address-zeros", push(private("0.0.0.0", 0)))
good("private-address-v6-long", push(private("2001:db8:1:2:3:4:5:6", 1)))
good("private-address-v6-inner-zeros", push(private("2001:db8:0:0:1:0:0:1", 1)))
good("realm-0", push(realm(0)))
good("realm-largest", push(realm(0xFFFFFFFF)))
good("imsi-15-digits", push(imsi("460001234567890")))
good("imsi-14-digits", push(imsi("24001012345678")))
good("imsi-6-digits", push(imsi("460009")))
good("validity-0-static", Message("REGISTERED", validity(0)))
good("validity-largest", Message("REGISTERED", validity(0xFFFFFFFF)))
good("dynamic-id-asked", Message("REGISTER", listen_port(0), dynamic_id(bytes(16)), to=NOBODY, source=NOBODY))
good("dynamic-id-lent", Message("REGISTERED", validity(600), dynamic_id(BOB)))
for code in range(1, 25):
    good(f"reason-{code}", Message("REJECT", reason(code)))
good("reason-text", Message("REJECT", reason(9, "no such user")))
good("reason-text-utf8", Message("REJECT", reason(10, "kein Weg: Größe €𝄞")))
good("reason-text-253-bytes", Message("REJECT", reason(1, "r" * 253)))
good("reason-of-a-later-version", Message("REJECT", reason(999)))
good("name-1-byte", Message("RESOLVE", name("a"), to=NOBODY))
good("name-255-bytes", Message("RESOLVE", name("n" * 255), to=NOBODY))
good("name-254-bytes-no-padding", Message("RESOLVE", name("n" * 254), to=NOBODY))
good("name-telephone", Message("RESOLVE", name("+86 138 0013 8000"), to=NOBODY))
good("name-utf8", Message("RESOLVE", name("张三"), to=NOBODY))
good("name-utf8-last-code-point", Message("RESOLVE", name("\U0010ffff"), to=NOBODY))
good("name-utf8-around-surrogates", Message("RESOLVE", name("\ud7ff\ue000"), to=NOBODY))
good("bearers-none", Message("REGISTER", listen_port(2949), bearers(0)))
good("bearers-all-known", Message("REGISTER", listen_port(2949), bearers(1 | 2 | 4 | 8)))
good("bearers-unknown-bits", Message("REGISTER", listen_port(2949), bearers(0x80000001)))
good("listen-port-0", Message("REGISTER", listen_port(0)))
good("listen-port-65535", Message("REGISTER", listen_port(65535)))
good("content-type", push(content_type("text/plain")))
good("content-type-wap", push(content_type("application/vnd.wap.mms-message")))
good("content-type-255-bytes", push(content_type("text/" + "p" * 250)))
good("group-request-rest-ignored", Message("GROUP", group_request(2, b"\x01\x02\x03"), group_id(BOB)))
good("group-copy", push(group_id(bytes.fromhex("30112233445566778899aabbccddeeff"))))
good("group-id-zero", push(group_id(bytes(16))))
good("payload-length-equal", push(payload_length(5)))
good("payload-length-with-padding", push(payload_length(5), payload=b"hello" + bytes(11)))
good("payload-length-padding-not-zero", push(payload_length(5), payload=b"hello" + b"\xff" * 3))
good("payload-length-0-of-0", push(payload_length(0), payload=b""))
good("payload-length-0-of-5", push(payload_length(0)))

# ---------------------------------------------------------------------------------------------
# Several options, in any order, with unknown ones between.

good("options-plain-gateway", push(private("10.20.0.7", 2949), realm(3), imsi("460001234567890"), flags=RECEIPT))
good("options-descending", push(payload_length(5), content_type("text/plain"), device(2), deadline(NOW)))
good(
    "options-register-all",
    Message(
        "REGISTER", device(2), private("fd20::7", 2949), realm(9), imsi("460001234567890"), validity(3600), bearers(3),
        dynamic_id(bytes(16)), address(14, "203.0.113.9", 40001), source=NOBODY,
    ),
)  # fmt: skip
good(
    "options-every-known",
    Message(
        "PUSH", deadline(NOW), device(1), private("10.20.0.7", 2949), address(4, "203.0.113.9", 40001), realm(1),
        imsi("460001234567890"), validity(60), dynamic_id(BOB), reason(1, "r"), name("n"), group_id(BOB),
        address(12, "198.51.100.2", 17400), bearers(1), address(14, "192.0.2.5", 5), address(15, "192.0.2.6", 6),
        listen_port(7), content_type("text/plain"), group_request(1), payload_length(5), app=7, payload=b"hello",
    ).sign(KEY),
)  # fmt: skip
good("unknown-option-skipped", push(option(20, b"\x01\x02")))
good("unknown-option-127", push(option(127, b"")))
good("unknown-option-repeated", push(option(20, b"\x01"), option(20, b"\x02"), option(20, b"\x01")))
good("unknown-option-255-bytes", push(option(100, bytes(range(255)))))
good("unknown-between-known", push(device(1), option(99, b"abcde"), realm(1), option(99, b"abcde")))
good("type-0-zero-word", push(option(0, b"")))
good("type-0-zero-words", push(device(1), option(0, b""), option(0, b""), option(0, b"")))
good("type-0-with-value", push(option(0, b"\x01\x02\x03")))
good(
    "header-length-255",
    Message(
        "REJECT", reason(1, "r" * 253), name("n" * 255), content_type("c" * 255), option(50, bytes(190)),
        payload=b"hello",
    ),
)  # fmt: skip
assert ROWS[-1][1][6:8] == "ff"
good("datagram-1472", push(payload=bytes(i & 0xFF for i in range(1472 - 48))))

# Padding of an option need not be zero when it is read. By hand: Device 1, its padding byte set.
padded = push(device(1))
octets = bytearray(padded.encode())
assert octets[48:52] == b"\x02\x01\x01\x00"
octets[51] = 0xA5
row("option-padding-not-zero", bytes(octets), padded.expected())

# ---------------------------------------------------------------------------------------------
# Signed messages. `auth_secret` is the key; `auth_valid` says whether the tag is right for it.

good("signed-push", push().sign(KEY))
good("signed-push-empty", Message("PUSH", app=7).sign(KEY))
good("signed-push-options", push(deadline(NOW + 30000), content_type("text/plain"), flags=RECEIPT).sign(KEY))
good("signed-other-key", push().sign(OTHER_KEY, key_id=0xFFFFFFFF, time=2**64 - 1))
good("signed-key-0-time-0", push().sign(OTHER_KEY, key_id=0, time=0))
good("signed-padding-is-covered", push(payload_length(5), payload=b"hello" + bytes(11)).sign(KEY))
good("signed-reserved-flags-are-covered", push(flags=0xF1).sign(KEY))
good("signed-block-boundary", push(payload=bytes(16 * 5 - 48 - 32 + 16)).sign(KEY))
good("signed-register", Message("REGISTER", listen_port(0), validity(3600), source=NOBODY).sign(KEY, key_id=44))
good("signed-1472", push(payload=b"\x5a" * (1472 - 48 - 32)).sign(KEY))
good("signed-unknown-option", push(option(77, b"seven")).sign(KEY))
good("signed-wrong-tag", push().sign(KEY, spoil=0x01))

tampered = push().sign(KEY)
tampered.payload = b"jello"
tampered.spoilt = True
good("signed-tampered-payload", tampered)
tampered = push().sign(KEY)
tampered.hop = 7
tampered.spoilt = True
good("signed-tampered-hop-limit", tampered)

# ---------------------------------------------------------------------------------------------
# Malformed: the datagram and the header length.

whole = push().encode()
for size in (0, 1, 4, 20, 24, 40, 47):
    refused(f"datagram-{size}-bytes", whole[:size], "datagram-too-short")
refused("header-length-0", Message("PUSH").encode(words=0), "header-length-below-12")
refused("header-length-11", Message("PUSH").encode(words=11), "header-length-below-12")
refused("header-length-11-with-payload", push().encode(words=11), "header-length-below-12")
refused("header-length-13-of-48-bytes", Message("PUSH").encode(words=13), "header-length-beyond-datagram")
refused("header-length-13-of-51-bytes", push(payload=bytes(3)).encode(words=13), "header-length-beyond-datagram")
good("header-length-13-of-52-bytes", Message("PUSH", option(0, b""), app=7))
refused("header-length-255-of-48-bytes", Message("PUSH").encode(words=255), "header-length-beyond-datagram")
refused("options-cut-short", push(imsi("460001234567890"), payload=b"").encode()[:-1], "header-length-beyond-datagram")

# An option that ends exactly at the header length, and one that goes one byte past it. Options end
# on words, so one byte too long is one word too long.
exact = option(20, b"\x00\x00")
good("option-ends-at-header-length", push(exact))
refused("option-one-byte-past-header-length", push(option(20, b"\x00" * 3), payload=b"xyz").encode(words=13), "option-past-header")
refused("known-option-past-header-length", push(realm(1), payload=b"xyz").encode(words=13), "option-past-header")
refused("second-option-past-header-length", push(device(1), imsi("460001234567890")).encode(words=15), "option-past-header")
refused("unknown-option-255-past-header-length", push(option(20, bytes(255))).encode(words=76), "option-past-header")
refused("critical-option-past-header-length", push(option(129, bytes(6))).encode(words=13), "option-past-header")
refused("auth-past-header-length", push().sign(KEY).encode(words=19), "option-past-header")

# ---------------------------------------------------------------------------------------------
# Malformed: lengths of values. Each known option one byte shorter and longer than it may be, and
# empty.

FIXED = {
    1: ("deadline", 8), 2: ("device", 1), 5: ("realm", 4), 6: ("imsi", 8), 7: ("validity", 4), 8: ("dynamic-id", 16),
    11: ("group-id", 16), 13: ("bearers", 4), 16: ("listen-port", 2), 18: ("group-request", 4),
    19: ("payload-length", 2), 128: ("auth", 28),
}  # fmt: skip
for kind, (title, size) in FIXED.items():
    for wrong in sorted({0, size - 1, size + 1}):
        value = tbcd("460001234567890") + b"\xff" if kind == 6 else bytes(wrong)
        refused(f"{title}-{wrong}-bytes", push(option(kind, value[:wrong])).encode(), "wrong-length")
for kind, title in ADDRESS_OPTIONS.items():
    for wrong in (0, 4, 5, 7, 16, 17, 19):
        refused(f"{title.replace('_', '-')}-{wrong}-bytes", push(option(kind, bytes(wrong))).encode(), "wrong-length")
refused("reason-0-bytes", Message("REJECT", option(9, b"")).encode(), "wrong-length")
refused("reason-1-byte", Message("REJECT", option(9, b"\x00")).encode(), "wrong-length")
refused("name-0-bytes", Message("RESOLVE", option(10, b"")).encode(), "wrong-length")

# ---------------------------------------------------------------------------------------------
# Malformed: the same known option twice, equal or not, next to each other or not.

TWICE = {
    1: deadline(NOW), 2: device(1), 3: private("10.20.0.7", 2949), 4: address(4, "203.0.113.9", 1), 5: realm(1),
    6: imsi("460001234567890"), 7: validity(1), 8: dynamic_id(BOB), 9: reason(1), 10: name("a"), 11: group_id(BOB),
    12: address(12, "198.51.100.2", 17400), 13: bearers(1), 14: address(14, "192.0.2.5", 5), 15: address(15, "192.0.2.6", 6),
    16: listen_port(7), 17: content_type("text/plain"), 18: group_request(1), 19: payload_length(5),
}  # fmt: skip
for kind, value in TWICE.items():
    refused(f"option-{kind}-twice", push(value, value).encode(), "duplicate-option")
refused("device-twice-not-equal", push(device(1), device(2)).encode(), "duplicate-option")
refused("device-twice-apart", push(device(1), option(20, b""), realm(1), device(1)).encode(), "duplicate-option")
refused("private-address-twice-v4-and-v6", push(private("10.20.0.7", 1), private("fd20::7", 1)).encode(), "duplicate-option")
refused("auth-twice", push(auth(1, NOW)).sign(KEY).encode(), "duplicate-option")

# ---------------------------------------------------------------------------------------------
# Malformed: Auth is the last option.

refused("auth-before-known-option", push(auth(1, NOW), device(1)).encode(), "auth-not-last")
refused("auth-before-unknown-option", push(auth(1, NOW), option(20, b"\x01")).encode(), "auth-not-last")

# ---------------------------------------------------------------------------------------------
# Malformed: PayloadLength is longer than what is there.

refused("payload-length-one-more", push(payload_length(6)).encode(), "payload-length-beyond-datagram")
refused("payload-length-1-of-0", push(payload_length(1), payload=b"").encode(), "payload-length-beyond-datagram")
refused("payload-length-65535", push(payload_length(65535)).encode(), "payload-length-beyond-datagram")

# ---------------------------------------------------------------------------------------------
# Malformed: text that is neither UTF-8 nor TBCD.

NOT_UTF8 = {
    "lone-continuation": b"a\x80", "cut-short": b"a\xe5\xbc", "overlong-2": b"\xc0\xaf", "overlong-3": b"\xe0\x80\xaf",
    "overlong-4": b"\xf0\x80\x80\xaf", "surrogate": b"\xed\xa0\x80", "beyond-unicode": b"\xf4\x90\x80\x80",
    "byte-fe": b"\xfe", "byte-ff": b"ab\xff",
}  # fmt: skip
for title, value in NOT_UTF8.items():
    refused(f"name-utf8-{title}", Message("RESOLVE", option(10, value), to=NOBODY).encode(), "invalid-utf8")
refused("reason-text-not-utf8", Message("REJECT", option(9, b"\x00\x01\xff\xfe")).encode(), "invalid-utf8")
refused("reason-text-cut-short", Message("REJECT", option(9, b"\x00\x01a\xc3")).encode(), "invalid-utf8")
refused("content-type-not-text", push(option(17, b"text/\xff")).encode(), "invalid-text")

for title, octets in {
    "nibble-a": tbcd("46000123456789a"), "nibble-e-first": tbcd("e6000123456789"), "nibble-b-middle": tbcd("4600b1234567890"),
    "digit-after-filler": tbcd("46000f234567890"), "filler-first": tbcd("f60001234567890"),
    "digit-after-filler-last": tbcd("4600012345678f1"),
}.items():  # fmt: skip
    refused(f"imsi-{title}", push(option(6, octets)).encode(), "invalid-tbcd")

# ---------------------------------------------------------------------------------------------
# Refused for something else. In this order where several hold: malformed, version, kind, option.

for version in (0, 2, 15):
    refused(f"version-{version}", push(version=version).encode(), "version", "unsupported-version")
refused("kind-0", Message(0, app=7).encode(), "kind", "unsupported-kind")
refused("kind-15", Message(15, app=7, payload=b"x").encode(), "kind", "unsupported-kind")
refused("critical-option-129", push(option(129, b"")).encode(), "option", "unsupported-option")
refused("critical-option-255", push(option(255, b"\x01\x02\x03")).encode(), "option", "unsupported-option")
refused("critical-option-129-twice", push(option(129, b"\x01"), option(129, b"\x01")).encode(), "option", "unsupported-option")
refused("critical-option-signed", push(option(200, b"\x01")).sign(KEY).encode(), "option", "unsupported-option")
refused("critical-option-between-known", push(device(1), option(130, b"abc"), realm(1)).encode(), "option", "unsupported-option")
refused("order-version-before-kind", Message(15, version=2).encode(), "version", "unsupported-version")
refused("order-version-before-option", push(option(129, b""), version=2).encode(), "version", "unsupported-version")
refused("order-kind-before-option", Message(15, option(129, b"")).encode(), "kind", "unsupported-kind")
refused("order-malformed-before-kind", Message(15, device(1), device(1)).encode(), "duplicate-option")
refused("order-malformed-before-option", push(option(129, b""), device(1), device(1)).encode(), "duplicate-option")
refused("order-malformed-after-option", push(device(1), device(1), option(129, b"")).encode(), "duplicate-option")

# ---------------------------------------------------------------------------------------------
# RFC 4493, section 4: the key and the four examples.

RFC4493_KEY = KEY
RFC4493_MESSAGE = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
RFC4493 = [
    (0, "bb1d6929e95937287fa37d129b756746"),
    (16, "070a16b46b4d4144f79bdd9dd04a287c"),
    (40, "dfa66747de9ae63030ca32611497c827"),
    (64, "51f0bebf7e3b9d92fc49741779363cfe"),
]

PRP_HEAD = """\
# PRP/1 test vectors. Made by tests/vectors/prp.py, an encoder written from the protocol page alone in
# another language than the engine; run it again to get these bytes again (--check compares).
#
# Columns, separated by tabs: name, datagram in hexadecimal, what a parser must find as key=value
# separated by spaces. A message that is accepted has:
#   kind                         the name of the kind
#   flags, flag_names            the byte in hexadecimal; the bits that have names
#   hop header_words app         decimal
#   destination source message   hexadecimal
#   options                      type:value,… in the order of the wire, type decimal, value hexadecimal
#   one key per known option     numbers decimal (flags of Bearers too), addresses as 192.0.2.1:1 or
#                                [2001:db8::1]:1, identifiers and TEXT IN HEXADECIMAL, imsi as digits
#   auth_key auth_time auth_tag  the Auth option; auth_secret is the key that was used, and auth_valid
#                                says whether the tag is right for this datagram and that key
#   missing                      what the kind needs and the message lacks (any one of a|b|c)
#   payload                      hexadecimal, without what PayloadLength calls padding
# One that is refused has error= (the name of the reason), rule= (which rule it breaks, a word of
# these vectors, not of the protocol), and message= where the message identifier can be read.
"""

CMAC_HEAD = """\
# AES-128-CMAC. Made by tests/vectors/prp.py: the examples of RFC 4493 section 4, then the signed
# datagrams of prp.tsv with the tag's sixteen bytes zero, as the openssl program computes them.
# Columns, separated by tabs: name, key, message, tag; hexadecimal, an empty message is "-".
"""


def main():
    if sys.argv[1:2] == ["--corpus"]:
        folder = Path(sys.argv[2])
        folder.mkdir(parents=True, exist_ok=True)
        for title, datagram, _ in ROWS:
            (folder / title).write_bytes(bytes.fromhex(datagram))
        print(f"{len(ROWS)} datagrams in {folder}")
        return
    cmac_rows = []
    for size, tag in RFC4493:
        computed = cmac(RFC4493_KEY, RFC4493_MESSAGE[:size]).hex()
        if computed != tag:
            sys.exit(f"this openssl computes {computed} for the RFC 4493 example of {size} bytes, not {tag}")
        cmac_rows.append((f"rfc4493-{size}-bytes", RFC4493_KEY.hex(), RFC4493_MESSAGE[:size].hex() or "-", tag))
    for title, datagram, text in ROWS:
        fields = dict(field.split("=", 1) for field in text.split(" "))
        if fields.get("auth_valid") == "true":
            assert datagram.count(fields["auth_tag"]) == 1
            zeroed = datagram.replace(fields["auth_tag"], "00" * 16)
            cmac_rows.append((title, fields["auth_secret"], zeroed, fields["auth_tag"]))

    files = {
        "prp.tsv": PRP_HEAD + "".join("\t".join(cells) + "\n" for cells in ROWS),
        "cmac.tsv": CMAC_HEAD + "".join("\t".join(cells) + "\n" for cells in cmac_rows),
    }
    differ = False
    for file, text in files.items():
        if "--check" in sys.argv[1:]:
            if (HERE / file).read_text() != text:
                print(f"{HERE / file} is not what {Path(__file__).name} writes", file=sys.stderr)
                differ = True
        else:
            (HERE / file).write_text(text)
    print(f"{len(ROWS)} datagrams, {len(cmac_rows)} tags")
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
