//! Obtains cosignatures from a witness.

use std::{error::Error as StdError, iter, path::PathBuf, time::Duration};

use http::{
    HeaderMap, Request, StatusCode, Uri,
    header::{CONTENT_TYPE, HeaderValue},
};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

use super::{
    body::{self, BodyError},
    request::{self, HASHES_MAX},
    signature_lines::{LinesError, lines_by, split},
};
use crate::{
    printable::escaped,
    proof::{Algorithm, Hash, SignatureError, SignedNote, VerifierKey, encoding},
};

mod tls;

pub use tls::TlsError;

/// The maximum length of an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The maximum number of characters of a refusal that are kept.
const REFUSAL_CHARS_MAX: usize = 200;

/// How long a connection is kept for the next checkpoint.
const IDLE_MAX: Duration = Duration::from_secs(20);

/// The type of the answer that has the size of the newest checkpoint.
const SIZE_TYPE: &str = "text/x.tlog.size";

/// Which witness to use, and how.
#[derive(Debug, Clone)]
pub struct WitnessSettings {
    /// Where the calls of the witness are: `http` or `https`, without `/add-checkpoint`.
    pub url: String,
    /// The key that signs, of the type for cosignatures.
    pub key: VerifierKey,
    /// The certificates of the authorities that are trusted for `https`, as PEM. Without it, those
    /// that browsers trust.
    pub ca_file: Option<PathBuf>,
    /// How long the witness may take to answer.
    pub timeout: Duration,
}

/// Why there can be no client with these settings.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL has another form. It is not shown, as it may contain a password.
    #[error("the URL of a witness is http:// or https:// with a host, without a user and without a query")]
    Url,
    /// The key is not that of a witness.
    #[error(transparent)]
    Key(SignatureError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Why there is no cosignature.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// No connection, or it failed.
    #[error("the witness cannot be reached: {}", with_causes(.0))]
    Unreachable(#[source] legacy::Error),
    /// The witness took too long.
    #[error("the witness did not answer within {0:?}")]
    Timeout(Duration),
    /// The answer ended too early.
    #[error("the answer of the witness is incomplete: {}", with_causes(.0))]
    Incomplete(#[source] hyper::Error),
    /// The answer is longer than any that the protocol has.
    #[error("the answer of the witness has more than {ANSWER_BYTES_MAX} bytes")]
    TooLong,
    /// The protocol allows fewer hashes.
    #[error("the proof has {hashes} hashes; the limit is {HASHES_MAX}")]
    TooManyHashes {
        /// The number of hashes of the proof.
        hashes: usize,
    },
    /// The proof did not begin at the newest checkpoint that the witness has cosigned.
    #[error("the newest checkpoint that the witness has cosigned has the size {size}")]
    OtherSize {
        /// The size of that checkpoint.
        size: u64,
    },
    /// The witness does not cosign this checkpoint.
    #[error("the witness refused the checkpoint with HTTP status {status}: {message}")]
    Refused {
        /// The status of the answer.
        status: u16,
        /// The first line of the answer.
        message: String,
    },
    /// The answer has no cosignature by the key of the witness, or a wrong one.
    #[error("the answer of the witness is not accepted: {0}")]
    Answer(#[from] LinesError),
}

/// What a witness has signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cosignature {
    /// The signature lines by the key of the witness, each with its line end. They are verified,
    /// and can be appended to the note.
    pub lines: String,
    /// The time of the cosignature, in seconds since 1970.
    pub cosigned_at: u64,
}

/// A client of one witness. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: legacy::Client<HttpsConnector<HttpConnector>, String>,
    add_checkpoint: Uri,
    key: VerifierKey,
    timeout: Duration,
}

impl Client {
    /// Makes a client. It connects when it is used.
    ///
    /// # Errors
    /// Returns an error if the URL, the key or the certificates cannot be used.
    pub fn new(settings: WitnessSettings) -> Result<Self, ClientError> {
        let WitnessSettings { url, key, ca_file, timeout } = settings;
        if key.algorithm() != Algorithm::CosignatureV1 {
            let (name, id) = (key.name().to_owned(), key.id());
            return Err(ClientError::Key(SignatureError::NotAWitness { name, id }));
        }
        let add_checkpoint = uri(&url).ok_or(ClientError::Url)?;
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .build(tls::connector(ca_file.as_deref())?);
        Ok(Self { http, add_checkpoint, key, timeout })
    }

    /// Asks for a cosignature of a checkpoint. The proof leads from the tree of `old_size` leaves,
    /// the newest that the witness has cosigned, to that of the checkpoint.
    ///
    /// # Errors
    /// Returns [`WitnessError::OtherSize`] if the witness has cosigned another size, and another
    /// error if it does not answer, refuses, or answers with something else than its cosignature.
    pub async fn add_checkpoint(
        &self,
        old_size: u64,
        proof: &[Hash],
        note: &SignedNote,
    ) -> Result<Cosignature, WitnessError> {
        if proof.len() > HASHES_MAX {
            return Err(WitnessError::TooManyHashes { hashes: proof.len() });
        }
        // A note is always UTF-8.
        let note = String::from_utf8_lossy(&note.to_bytes()).into_owned();
        let exchange = self.exchange(request::encode(old_size, proof, &note));
        let answered = tokio::time::timeout(self.timeout, exchange).await;
        let answer = answered.map_err(|_| WitnessError::Timeout(self.timeout))??;
        match answer.status {
            StatusCode::OK => {
                let (text, _) = split(&note).unwrap_or_default();
                Ok(cosignature(text, &answer.body, &self.key)?)
            }
            status => Err(answer.size().map_or_else(
                || WitnessError::Refused { status: status.as_u16(), message: answer.message() },
                |size| WitnessError::OtherSize { size },
            )),
        }
    }

    async fn exchange(&self, body: String) -> Result<Answer, WitnessError> {
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.add_checkpoint.clone();
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        let response = self.http.request(request).await.map_err(WitnessError::Unreachable)?;
        let (head, body) = response.into_parts();
        let body = body::read(body, ANSWER_BYTES_MAX).await.map_err(|error| match error {
            BodyError::TooLong => WitnessError::TooLong,
            BodyError::Incomplete(error) => WitnessError::Incomplete(error),
        })?;
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }
}

/// The answer to a request.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    /// Returns the size of the newest checkpoint, if the answer says that it is another one.
    fn size(&self) -> Option<u64> {
        let is_size = self.headers.get(CONTENT_TYPE).is_some_and(|found| found == SIZE_TYPE);
        if self.status != StatusCode::CONFLICT || !is_size {
            return None;
        }
        encoding::decode_decimal(self.body.strip_suffix('\n')?)
    }

    /// Returns the beginning of the text, which another program wrote.
    fn message(&self) -> String {
        let line = self.body.lines().next().unwrap_or_default();
        escaped(&line.chars().take(REFUSAL_CHARS_MAX).collect::<String>()).into_owned()
    }
}

/// Returns those of the lines that are cosignatures of the text by the key.
fn cosignature(text: &str, lines: &str, key: &VerifierKey) -> Result<Cosignature, LinesError> {
    let own = lines_by(text, lines, key)?;
    let times: Vec<u64> = own.iter().map(|(_, note)| note.cosigned_at(key)).collect::<Result<_, _>>()?;
    let missing = || SignatureError::Missing { name: key.name().to_owned(), id: key.id() };
    let cosigned_at = times.into_iter().min().ok_or_else(missing)?;
    Ok(Cosignature { lines: own.into_iter().map(|(line, _)| line).collect(), cosigned_at })
}

fn uri(url: &str) -> Option<Uri> {
    let uri: Uri = format!("{}/add-checkpoint", url.trim_end_matches('/')).parse().ok()?;
    let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    // The path is not at the end if there is a query.
    let is_whole = uri.query().is_none() && !url.contains('#');
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    (is_http && has_host && !has_user && is_whole).then_some(uri)
}

/// Returns the text of an error and of its causes, which say what has failed.
fn with_causes(error: &(dyn StdError + 'static)) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{proof::SigningKey, witness::CosigningKey};

    const TEXT: &str = "log.example/aethyr\n5\ntnSPbtepnefahP2X4aO6xvq4mZ9KQ2lcq5Uoot5DEUc=\n";

    fn answer(status: u16, content_type: &str, body: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        let headers = [(CONTENT_TYPE, HeaderValue::from_str(content_type).unwrap())].into_iter().collect();
        Answer { status, headers, body: body.to_owned() }
    }

    #[test]
    fn the_size_is_read_from_a_conflict_only() {
        assert_eq!(answer(409, SIZE_TYPE, "20852163\n").size(), Some(20_852_163));
        assert_eq!(answer(409, SIZE_TYPE, "0\n").size(), Some(0));
        for (status, content_type, body) in [
            (409, "text/plain", "5\n"),
            (400, SIZE_TYPE, "5\n"),
            (409, SIZE_TYPE, "5"),
            (409, SIZE_TYPE, "05\n"),
            (409, SIZE_TYPE, "-5\n"),
            (409, SIZE_TYPE, "\n"),
        ] {
            assert_eq!(answer(status, content_type, body).size(), None, "{status} {content_type} {body:?}");
        }
    }

    #[test]
    fn the_text_of_a_refusal_is_short_and_safe() {
        let refused = answer(400, "text/plain", &format!("\x1b[2J{}\nsecond line\n", "é".repeat(1000)));
        let message = refused.message();
        assert!(message.starts_with("\\u001b[2Jé") && message.chars().count() < 210, "{message}");
        assert_eq!(answer(500, "text/plain", "").message(), "");
    }

    #[test]
    fn cosignatures_by_other_keys_are_ignored_and_wrong_ones_rejected() {
        let [key, other] = ["a", "b"].map(|name| CosigningKey::generate(name).unwrap());
        let (early, late, foreign) = (key.cosign(TEXT, 17), key.cosign(TEXT, 18), other.cosign(TEXT, 1));
        let found = cosignature(TEXT, &format!("{late}{foreign}{early}"), key.verifier()).unwrap();
        assert_eq!(found, Cosignature { lines: format!("{late}{early}"), cosigned_at: 17 });

        let missing = SignatureError::Missing { name: "a".to_owned(), id: key.verifier().id() };
        for lines in ["", foreign.as_str()] {
            let refused = cosignature(TEXT, lines, key.verifier());
            assert_eq!(refused, Err(missing.clone().into()), "{lines:?}");
        }
        let wrong = key.cosign("another\n", 17);
        let refused = cosignature(TEXT, &format!("{early}{wrong}"), key.verifier()).unwrap_err();
        assert!(matches!(refused, LinesError::Signature(SignatureError::Invalid { .. })), "{refused}");
    }

    #[test]
    fn a_url_has_a_scheme_and_a_host_and_nothing_else() {
        let path = |url| uri(url).map(|uri| uri.to_string());
        assert_eq!(path("http://host:1234").as_deref(), Some("http://host:1234/add-checkpoint"));
        assert_eq!(path("https://[::1]/a/b/").as_deref(), Some("https://[::1]/a/b/add-checkpoint"));
        for url in
            ["", "host", "/path", "ftp://host", "http://", "http://a:b@host", "http://h/?q", "http://h/#f"]
        {
            assert_eq!(uri(url), None, "{url}");
        }
    }

    #[test]
    fn a_witness_has_a_key_for_cosignatures() {
        let log = SigningKey::generate("log.example/a").unwrap();
        let settings = WitnessSettings {
            url: "http://127.0.0.1:1".to_owned(),
            key: log.verifier().clone(),
            ca_file: None,
            timeout: Duration::from_secs(1),
        };
        let refused = Client::new(settings).unwrap_err();
        assert!(matches!(&refused, ClientError::Key(SignatureError::NotAWitness { .. })), "{refused}");
    }
}
