//! Bytes to packets: every record gets a typed packet or a reason.
//!
//! Place: first step after the source; refused records go to the dead letters with [`PacketError::reason`].
//! Invariant: total. Any bytes under any key give one or the other, and the packet's stream is the record's key, so a
//! stream's records all lie in one partition.

use ecg::packet::{Packet, PacketError};

/// Reads the packet in a record's payload; the key must be its stream id.
///
/// # Errors
/// [`PacketError`] of the packet, or [`PacketError::Key`].
pub fn decode(key: Option<&[u8]>, payload: &[u8]) -> Result<Packet, PacketError> {
    let packet = Packet::decode(payload)?;
    if key != Some(packet.stream_id.as_bytes()) {
        return Err(PacketError::Key);
    }
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use ecg::packet::RejectReason;

    use super::*;
    use crate::testing::heartbeat;

    #[test]
    fn a_packet_under_its_streams_key_is_read() {
        assert_eq!(decode(Some(b"bed-01"), &heartbeat().encode()).unwrap(), heartbeat());
    }

    #[test]
    fn a_packet_under_another_key_or_none_is_refused() {
        for key in [None, Some(b"bed-02".as_slice())] {
            assert_eq!(
                decode(key, &heartbeat().encode()).unwrap_err().reason(),
                RejectReason::Identity
            );
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(
            decode(Some(b"bed-01"), b"\xff\xff\xff").unwrap_err().reason(),
            RejectReason::Decode
        );
    }
}
