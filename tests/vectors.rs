//! The codec against the vectors of an encoder of its own (`tests/vectors/prp.py`, written from
//! PROTOCOL.md alone).
