#!/usr/bin/env python3
"""Writes what the fuzz targets start from into fuzz/corpus: the vectors, the captures, the lab's tables.

    python3 fuzz/seeds.py
"""

import struct
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# In the order of pushplane::table::source::FILES.
SOURCES = ["apps.toml", "gateways.toml", "groups.csv", "keys.toml", "names.csv", "segments.csv", "servers.toml", "users.csv"]


def put(target, name, content):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def udp_payloads(capture, wanted):
    """UDP payloads from or to some ports, of a classic little-endian pcap file of Ethernet frames with IPv4."""
    if capture[:4] != b"\xd4\xc3\xb2\xa1" or capture[20:24] != b"\x01\x00\x00\x00":
        return
    at = 24
    while at + 16 <= len(capture):
        (length,) = struct.unpack_from("<I", capture, at + 8)
        frame = capture[at + 16 : at + 16 + length]
        at += 16 + length
        if len(frame) > 42 and frame[12:14] == b"\x08\x00" and frame[23] == 17:
            udp = frame[14 + (frame[14] & 15) * 4 :]
            ports = struct.unpack_from(">HH", udp)
            if wanted.intersection(ports):
                yield udp[8:]


subprocess.run([sys.executable, ROOT / "tests/vectors/prp.py", "--corpus", HERE / "corpus/prp"], check=True)
for number, vector in enumerate(sorted((HERE / "corpus/prp").iterdir())):
    datagram = bytearray(vector.read_bytes())
    # To the users of the tests' tables, one after the other, for an application of theirs.
    if len(datagram) >= 48 and datagram[0] & 15 == 1:
        datagram[8:24] = (0x3 << 124 | number % 32).to_bytes(16, "big")
        datagram[4:8] = (7 + number % 8).to_bytes(4, "big")
    how = 0x80 | number % 8
    put("plane", vector.name, bytes([how]) + len(datagram).to_bytes(2, "big") + datagram)
for path in sorted((ROOT / "tests/captures").glob("*.pcap*")):
    put("capture", path.name, path.read_bytes())
    for number, payload in enumerate(udp_payloads(path.read_bytes(), {2123, 2152})):
        if number < 40:
            put("gtp", f"{path.name}-{number}", payload)
    # One by one for the codec, and as a conversation: each behind a wait and its length.
    reports = list(udp_payloads(path.read_bytes(), {1645, 1813}))
    for number, payload in enumerate(reports):
        put("radius", f"{path.name}-{number}", payload)
    if reports:
        said = b"".join(b"\x05" + len(payload).to_bytes(2, "big") + payload for payload in reports)
        put("radius", f"{path.name}-all", said)
for folder in ["lab", "three-operators"]:
    for number, name in enumerate(SOURCES):
        path = ROOT / "tables" / folder / name
        if path.exists():
            put("sources", f"{folder}-{name}", bytes([number]) + path.read_bytes())
put("image", "unchanged", b"")
