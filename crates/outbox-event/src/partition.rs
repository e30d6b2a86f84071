//! Which partition a key belongs to.

use std::num::NonZeroU16;

/// The offset basis and the prime of 32-bit FNV-1a, as <http://www.isthe.com/chongo/tech/comp/fnv/> has them.
const FNV_OFFSET_BASIS: u32 = 0x811c_9dc5;
const FNV_PRIME: u32 = 0x0100_0193;

/// The partition of `key` among `count`, from 0: 32-bit FNV-1a of its bytes, modulo `count`.
///
/// It is what nats-server makes of `{{partition(count,…)}}` in a
/// [subject transform](https://docs.nats.io/nats-concepts/subject_mapping#deterministic-subject-token-partitioning), so a
/// stream that the server partitions by a token with the key agrees.
///
/// ```
/// use std::num::NonZeroU16;
/// use outbox_event::partition_of;
///
/// let count = NonZeroU16::new(16).expect("not 0");
/// assert!(partition_of("order-7", count) < 16);
/// assert_eq!(partition_of("order-7", NonZeroU16::MIN), 0);
/// ```
#[must_use]
pub fn partition_of(key: &str, count: NonZeroU16) -> u16 {
    let hash =
        key.bytes().fold(FNV_OFFSET_BASIS, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(FNV_PRIME));
    let partition = hash % u32::from(count.get());
    u16::try_from(partition).expect("a remainder is less than its divisor")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the reference: FNV-1a is in the contract, since old messages keep their partition.
    #[test]
    fn known_hashes() {
        let modulo = |key, count| partition_of(key, NonZeroU16::new(count).expect("not 0"));
        for (key, hash) in [("", 0x811c_9dc5_u32), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
            for count in [1, 7, 16, 1000, u16::MAX] {
                assert_eq!(u32::from(modulo(key, count)), hash % u32::from(count), "{key} among {count}");
            }
        }
    }

    #[test]
    fn keys_are_spread() {
        let count = NonZeroU16::new(16).expect("not 0");
        let mut counts = [0_u32; 16];
        for number in 0..16_000 {
            counts[usize::from(partition_of(&format!("order-{number}"), count))] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
