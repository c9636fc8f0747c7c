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
pub(super) const SIGNATURE_PREFIX: &str = "— ";

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
    /// The signature of a log is required, but the key is that of a witness.
    #[error("{name} (key {id}) is the key of a witness, not of a log")]
    NotALog {
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

/// Why the signature lines of a witness are not added to a note.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CosignatureError {
    /// The lines are not signature lines, or there would be too many of them.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The witness has not signed the text.
    #[error(transparent)]
    Signature(#[from] SignatureError),
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
        Ok(Self { signatures: parse_lines(lines)?, text: format!("{text}\n") })
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

    /// Adds a signature by another key of the log.
    pub fn sign_also(&mut self, key: &SigningKey) -> Result<(), NoteError> {
        let verifier = key.verifier();
        let bytes = key.sign(&self.text);
        self.add(vec![Signature { name: verifier.name().to_owned(), id: verifier.id(), bytes }])
    }

    /// Adds the earliest signature line of those that a witness returns, if the witness has signed
    /// this text, unless the note has an earlier one. Returns when the witness saw it, in seconds
    /// since 1970. Lines of other keys are ignored.
    pub fn add_cosignature(&mut self, lines: &[u8], witness: &VerifierKey) -> Result<u64, CosignatureError> {
        check_length(lines.len())?;
        let lines = str::from_utf8(lines).map_err(|_| NoteError::NotUtf8)?;
        check_characters(lines)?;
        let signatures = parse_lines(lines.strip_suffix('\n').ok_or(NoteError::NotSigned)?)?;
        let own = signatures.into_iter().filter(|signature| signature.is_by(witness)).collect();
        let cosigned = Self { text: self.text.clone(), signatures: own };
        let at = cosigned.cosigned_at(witness)?;
        // A witness that signs again and again leaves room for others.
        if let Ok(earlier) = self.cosigned_at(witness)
            && earlier <= at
        {
            return Ok(earlier);
        }
        let is_first = |signature: &Signature| {
            let valid = witness.check(&self.text, &signature.bytes);
            valid.and_then(|valid| valid.cosigned_at) == Some(at)
        };
        let first = cosigned.signatures.into_iter().find(is_first);
        self.add(first.into_iter().collect())?;
        Ok(at)
    }

    /// Adds the signatures of another copy of this note that this one does not have. Does nothing
    /// if the texts differ.
    pub fn merge(&mut self, other: &Self) -> Result<(), NoteError> {
        if self.text == other.text { self.add(other.signatures.clone()) } else { Ok(()) }
    }

    /// Returns the note with the signatures that have this name only, as the log has made it.
    #[must_use]
    pub fn only_by(&self, name: &str) -> Self {
        let own = self.signatures.iter().filter(|signature| signature.name == name);
        Self { text: self.text.clone(), signatures: own.cloned().collect() }
    }

    /// Adds those that are not there yet.
    fn add(&mut self, signatures: Vec<Signature>) -> Result<(), NoteError> {
        let mut note = self.clone();
        for signature in signatures {
            if !note.signatures.contains(&signature) {
                note.signatures.push(signature);
            }
        }
        if note.signatures.len() > SIGNATURES_MAX {
            return Err(NoteError::TooManySignatures);
        }
        check_length(note.to_bytes().len())?;
        *self = note;
        Ok(())
    }

    /// Returns the text although nothing says who wrote it: to find out by which key it should be
    /// signed, and of a note that this program made.
    pub fn unverified_text(&self) -> &str {
        &self.text
    }

    /// Returns the names and ids on the signature lines. The signatures may be wrong.
    pub fn unverified_signers(&self) -> impl Iterator<Item = (&str, KeyId)> {
        self.signatures.iter().map(|signature| (signature.name.as_str(), signature.id))
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

fn parse_lines(lines: &str) -> Result<Vec<Signature>, NoteError> {
    let signatures = (1..).zip(lines.split('\n')).map(|(number, line)| {
        if number > SIGNATURES_MAX {
            return Err(NoteError::TooManySignatures);
        }
        Signature::parse(line).ok_or(NoteError::Signature { number })
    });
    signatures.collect()
}

fn check_length(bytes: usize) -> Result<(), NoteError> {
    if bytes <= NOTE_BYTES_MAX { Ok(()) } else { Err(NoteError::TooLong { bytes }) }
}

fn check_characters(note: &str) -> Result<(), NoteError> {
    let is_forbidden = |character: char| is_control(character) && character != '\n';
    if note.contains(is_forbidden) { Err(NoteError::ControlCharacter) } else { Ok(()) }
}
