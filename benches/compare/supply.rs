//! The generated contents of events: random bytes, JSON and ids. They are the same in every run.

use std::rc::Rc;

pub const PAYLOAD_BYTES: usize = 256;
const SEED: u64 = 1;

/// Words for generated descriptions.
const WORDS: &[&str] = &[
    "a",
    "and",
    "the",
    "of",
    "into",
    "stone",
    "narrow",
    "corridor",
    "leads",
    "north",
    "south",
    "where",
    "torches",
    "flicker",
    "on",
    "damp",
    "walls",
    "an",
    "old",
    "merchant",
    "sells",
    "rusty",
    "swords",
    "beside",
    "fountain",
    "whose",
    "water",
    "has",
    "long",
    "since",
    "turned",
    "green",
    "you",
    "hear",
    "distant",
    "thunder",
    "over",
    "mountains",
    "while",
    "market",
    "slowly",
    "fills",
    "with",
    "travellers",
    "from",
    "every",
    "province",
];

/// Random bytes and ids from a fixed seed.
pub struct Supply {
    random: fastrand::Rng,
    bytes: Rc<[u8]>,
    words: Rc<[u8]>,
}

impl Supply {
    /// Creates one for each of `count` callers. They share the random bytes and words.
    pub fn many(seed: u64, count: usize) -> Vec<Self> {
        const SHARED_BYTES: usize = 1 << 20;
        let mut random = fastrand::Rng::with_seed(SEED);
        let bytes: Rc<[u8]> = (0..SHARED_BYTES).map(|_| random.u8(..)).collect();
        let mut words = Vec::with_capacity(SHARED_BYTES + 32);
        while words.len() < SHARED_BYTES {
            words.extend_from_slice(random.choice(WORDS).expect("not empty").as_bytes());
            words.push(b' ');
        }
        let words = Rc::from(words);
        let own = |caller| fastrand::Rng::with_seed(SEED ^ seed.rotate_left(32) ^ (caller as u64 + 1));
        let supply = |caller| Self { random: own(caller), bytes: bytes.clone(), words: Rc::clone(&words) };
        (0..count).map(supply).collect()
    }

    pub fn payload(&mut self) -> [u8; PAYLOAD_BYTES] {
        let start = self.random.usize(..self.bytes.len() - PAYLOAD_BYTES);
        let mut payload = [0; PAYLOAD_BYTES];
        payload.copy_from_slice(&self.bytes[start..start + PAYLOAD_BYTES]);
        payload
    }

    /// Returns an attribute change as the events of a game world contain it: JSON with the length
    /// of a payload.
    pub fn json(&mut self) -> [u8; PAYLOAD_BYTES] {
        const BEFORE: &[u8] = br#"{"key":"description","value":""#;
        const BEHIND: &[u8] = br#""}"#;
        let length = PAYLOAD_BYTES - BEFORE.len() - BEHIND.len();
        let start = self.random.usize(..self.words.len() - length);
        let mut payload = [0; PAYLOAD_BYTES];
        payload[..BEFORE.len()].copy_from_slice(BEFORE);
        payload[BEFORE.len()..][..length].copy_from_slice(&self.words[start..start + length]);
        payload[BEFORE.len() + length..].copy_from_slice(BEHIND);
        payload
    }

    /// Returns a version 4 UUID as text.
    pub fn id(&mut self) -> [u8; 36] {
        let id = uuid::Builder::from_random_bytes(self.random.u128(..).to_le_bytes()).into_uuid();
        let mut text = [0; 36];
        id.hyphenated().encode_lower(&mut text);
        text
    }
}
