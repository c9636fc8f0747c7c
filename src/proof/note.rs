//! Signed notes: a text with signature lines below it.

use super::{
    encoding::{self, is_control},
    key::{KeyId, SigningKey, VerifierKey, is_name},
};

/// The maximum length of a note with its signatures, in bytes.
pub const NOTE_BYTES_MAX: usize = 1 << 20;

/// The maximum number of signatures of a note.
pub const SIGNATURES_MAX: usize = 100;

/// What each signature line begins with: an em dash and a space.
const SIGNATURE_PREFIX: &str = "— ";

/// Why bytes are not a signed note, or a text cannot become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The note is longer than the limit.
    #[error("the note has {bytes} bytes; the limit is {NOTE_BYTES_MAX}")]
    TooLong {
        /// The length of the note.
        bytes: usize,
    },
    /// The note is not UTF-8.
    #[error("the note is not UTF-8")]
    NotUtf8,
    /// The note has a control character other than a line end.
    #[error("the note has a control character")]
    ControlCharacter,
    /// The text to sign does not end with a line end.
    #[error("the text of a note ends with a line end")]
    UnfinishedLine,
    /// No blank line with signature lines below it is at the end of the note.
    #[error("the note has no signatures: a blank line and one line for each have to be at its end")]
    NotSigned,
    /// A signature line has another form than a name and base64.
    #[error("signature {number} of the note is malformed")]
    Signature {
        /// The number of the line, from 1 on.
        number: usize,
    },
    /// The note has more signatures than the limit.
    #[error("the note has more than {SIGNATURES_MAX} signatures")]
    TooManySignatures,
}

/// Why a note is not accepted as signed by a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The note has no signature with the name and the id of the key.
    #[error("the note is not signed by {name} (key {id})")]
    Missing {
        /// The name of the key.
        name: String,
        /// The id of the key.
        id: KeyId,
    },
    /// A signature with the name and the id of the key does not belong to the text.
    #[error("the signature by {name} (key {id}) is wrong")]
    Invalid {
        /// The name of the key.
        name: String,
        /// The id of the key.
        id: KeyId,
    },
    /// A cosignature is required, but the key signs without a time.
    #[error("{name} (key {id}) is not the key of a witness")]
    NotAWitness {
        /// The name of the key.
        name: String,
        /// The id of the key.
        id: KeyId,
    },
}

/// A text and its signatures, none of which is checked until a key is given. The text must not be
/// used before that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedNote {
    /// Ends with a line end.
    text: String,
    /// There is at least one.
    signatures: Vec<Signature>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    name: String,
    id: KeyId,
    /// What follows the id. The algorithm of the key says what it is.
    bytes: Vec<u8>,
}

impl SignedNote {
    /// Parses a note. Its signatures may be by any keys.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        check_length(bytes.len())?;
        let note = str::from_utf8(bytes).map_err(|_| NoteError::NotUtf8)?;
        check_characters(note)?;
        let (text, signatures) = note.rsplit_once("\n\n").ok_or(NoteError::NotSigned)?;
        let lines = signatures.strip_suffix('\n').ok_or(NoteError::NotSigned)?;
        let signatures = (1..).zip(lines.split('\n')).map(|(number, line)| {
            if number > SIGNATURES_MAX {
                return Err(NoteError::TooManySignatures);
            }
            Signature::parse(line).ok_or(NoteError::Signature { number })
        });
        Ok(Self { signatures: signatures.collect::<Result<_, _>>()?, text: format!("{text}\n") })
    }

    /// Signs a text, which has to end with a line end.
    pub fn sign(text: String, key: &SigningKey) -> Result<Self, NoteError> {
        if !text.ends_with('\n') {
            return Err(NoteError::UnfinishedLine);
        }
        check_characters(&text)?;
        let verifier = key.verifier();
        let signature =
            Signature { name: verifier.name().to_owned(), id: verifier.id(), bytes: key.sign(&text) };
        let note = Self { text, signatures: vec![signature] };
        check_length(note.to_bytes().len())?;
        Ok(note)
    }

    /// Returns the text if the key has signed it. If there are several signatures by the key, all
    /// have to be right. Those by other keys are ignored.
    pub fn verify(&self, key: &VerifierKey) -> Result<&str, SignatureError> {
        self.check(key)?;
        Ok(&self.text)
    }

    /// Returns when the witness saw the text, which has to be a checkpoint, in seconds since 1970.
    /// If it has signed more than once, the earliest time counts.
    pub fn cosigned_at(&self, witness: &VerifierKey) -> Result<u64, SignatureError> {
        let not_a_witness =
            || SignatureError::NotAWitness { name: witness.name().to_owned(), id: witness.id() };
        self.check(witness)?.ok_or_else(not_a_witness)
    }

    /// Returns the note as it is stored and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut note = format!("{}\n", self.text);
        for signature in &self.signatures {
            let bytes = [signature.id.0.as_slice(), &signature.bytes].concat();
            note.push_str(SIGNATURE_PREFIX);
            note.push_str(&signature.name);
            note.push(' ');
            note.push_str(&encoding::encode(&bytes));
            note.push('\n');
        }
        note.into_bytes()
    }

    /// Checks the signatures by a key. Returns the earliest time that they give, if any.
    fn check(&self, key: &VerifierKey) -> Result<Option<u64>, SignatureError> {
        let own = self.signatures.iter().filter(|signature| signature.is_by(key));
        let checked: Option<Vec<_>> = own.map(|signature| key.check(&self.text, &signature.bytes)).collect();
        let (name, id) = (key.name().to_owned(), key.id());
        match checked.as_deref() {
            None => Err(SignatureError::Invalid { name, id }),
            Some([]) => Err(SignatureError::Missing { name, id }),
            Some(valid) => Ok(valid.iter().filter_map(|signature| signature.cosigned_at).min()),
        }
    }
}

impl Signature {
    fn parse(line: &str) -> Option<Self> {
        let (name, bytes) = line.strip_prefix(SIGNATURE_PREFIX)?.split_once(' ')?;
        let bytes = encoding::decode(bytes)?;
        let (id, bytes) = bytes.split_first_chunk()?;
        let is_complete = is_name(name) && !bytes.is_empty();
        is_complete.then(|| Self { name: name.to_owned(), id: KeyId(*id), bytes: bytes.to_vec() })
    }

    fn is_by(&self, key: &VerifierKey) -> bool {
        self.id == key.id() && self.name == key.name()
    }
}

fn check_length(bytes: usize) -> Result<(), NoteError> {
    if bytes <= NOTE_BYTES_MAX { Ok(()) } else { Err(NoteError::TooLong { bytes }) }
}

fn check_characters(note: &str) -> Result<(), NoteError> {
    let is_forbidden = |character: char| is_control(character) && character != '\n';
    if note.contains(is_forbidden) { Err(NoteError::ControlCharacter) } else { Ok(()) }
}
