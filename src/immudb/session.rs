//! A session: one login to one database, and the calls that it allows. Each call has a deadline and
//! is attempted once; retries and new sessions are left to the caller.

use std::{fmt, path::PathBuf, time::Duration};

use bytes::Bytes;
use prost::Message;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use super::{
    ENTRIES_MAX, Error, ErrorKind, KEY_BYTES_MAX, KeyValue, PAGE_LIMIT_MAX, Precondition, REQUEST_BYTES_MAX,
    SetError, TlsSettings, Transaction, TransactionKeys, TxHeader, TxId, VerifiableEntry, VerifiableTx,
    VersionedValue,
    connection::{connect, explained},
    error::{FailedCall, Verdict},
    pages,
    schema::{self, immu_service_client::ImmuServiceClient, precondition},
    verify::DatabaseState,
};
use crate::secret::Secret;

/// The database that exists on every server. A session in it can create others.
pub(super) const DEFAULT_DATABASE: &str = "defaultdb";

/// Where to connect, how to log in, and the limits of the calls.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// A host name or an IP address; IPv6 without brackets.
    pub address: String,
    /// The TCP port of ImmuDB's gRPC server.
    pub port: u16,
    /// How the connection is encrypted. If `None`, it is not.
    pub tls: Option<TlsSettings>,
    /// The name of the ImmuDB user.
    pub username: String,
    /// The password of the user, which is sent only to log in.
    pub password: Secret,
    /// A file with the password, which is used instead of `password`. It is read at each login.
    pub password_file: Option<PathBuf>,
    /// Created if it does not exist and the user has the permission.
    pub database: String,
    /// The deadline of a connection attempt, including the DNS lookup.
    pub connect_timeout: Duration,
    /// The deadline of each call.
    pub request_timeout: Duration,
    /// Larger answers fail with [`ErrorKind::TooLarge`].
    pub response_bytes_max: usize,
}

/// A session with ImmuDB. Concurrent calls may share it. An idle session ends after two minutes:
/// call [`Session::keep_alive`] more often than that.
///
/// A broken connection is re-established automatically. The session then continues if the server
/// still knows it. Otherwise, calls fail with [`ErrorKind::SessionExpired`].
#[derive(Clone)]
pub struct Session {
    pub(super) client: ImmuServiceClient<Channel>,
    id: MetadataValue<Ascii>,
    server_uuid: String,
    /// The name as the server has it.
    database: String,
    request_timeout: Duration,
    response_bytes_max: usize,
}

impl SessionSettings {
    fn current_password(&self, operation: &'static str) -> Result<Secret, Error> {
        match &self.password_file {
            None => Ok(self.password.clone()),
            Some(path) => Secret::read(path)
                .map_err(|error| Error::configuration(operation, format!("password: {error}"))),
        }
    }
}

impl Session {
    /// Connects and logs in. Creates the database if it is missing, with settings suited to events.
    pub async fn open(settings: &SessionSettings) -> Result<Session, Error> {
        let client = connect(settings).await?;
        match Session::log_in(&client, settings, &settings.database).await {
            Err(error) if is_database_missing(&error) => {
                let helper = Session::log_in(&client, settings, DEFAULT_DATABASE).await?;
                let created = helper.create_database(&settings.database).await;
                helper.close().await;
                created?;
                Session::log_in(&client, settings, &settings.database).await
            }
            outcome => outcome,
        }
    }

    /// Same as [`Session::open`], but a missing database is an error and is not created.
    pub async fn open_existing(settings: &SessionSettings) -> Result<Session, Error> {
        let client = connect(settings).await?;
        Session::log_in(&client, settings, &settings.database).await
    }

    /// Identifies the server's data. It differs after a restore, or on another server.
    pub fn server_uuid(&self) -> &str {
        &self.server_uuid
    }

    /// Returns the name of the database as the server has it, which is part of what it signs.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Returns the newest value of a key, as of the last commit. Returns `None` if there is none.
    pub async fn get(&self, key: &[u8]) -> Result<Option<VersionedValue>, Error> {
        let request = self.request(schema::KeyRequest { key: Bytes::copy_from_slice(key), at_tx: 0 });
        match self.answer("Get", self.client.clone().get(request)).await {
            Ok(entry) => Ok(Some(VersionedValue { value: entry.value, tx: TxId(entry.tx) })),
            Err(failure) if failure.verdict == Verdict::NotFound => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Writes all entries in one transaction if all preconditions hold. Returns when they are
    /// committed and can be read. No key may occur twice.
    pub async fn set(
        &self,
        entries: Vec<KeyValue>,
        preconditions: Vec<Precondition>,
    ) -> Result<TxHeader, SetError> {
        let message = schema::SetRequest {
            k_vs: entries.into_iter().map(schema::KeyValue::from).collect(),
            no_wait: false,
            preconditions: preconditions.into_iter().map(schema::Precondition::from).collect(),
        };
        let bytes = message.encoded_len();
        if bytes > REQUEST_BYTES_MAX {
            let text = format!("the request has {bytes} bytes; at most {REQUEST_BYTES_MAX} are allowed");
            return Err(FailedCall::too_large("Set", text).into());
        }
        let request = self.request(message);
        let header = self.answer("Set", self.client.clone().set(request)).await?;
        // The write was committed, but the header that was returned cannot be trusted.
        TxHeader::try_from(header).map_err(SetError::Unknown)
    }

    /// Returns the first `limit` keys that begin with `prefix`, in bytewise order. The limit is at
    /// most [`PAGE_LIMIT_MAX`]. ImmuDB sends the values as well, so prefer a small limit.
    pub async fn scan_keys(&self, prefix: &[u8], limit: u64) -> Result<Vec<Bytes>, Error> {
        within_page_limit("Scan", limit)?;
        let prefix = Bytes::copy_from_slice(prefix);
        let request = self.request(schema::ScanRequest { prefix, limit });
        let page = self.answer("Scan", self.client.clone().scan(request)).await?;
        Ok(page.entries.into_iter().map(|entry| entry.key).collect())
    }

    /// Returns at most `limit` transactions from `first` on, and none after the last one. The limit
    /// is at most [`PAGE_LIMIT_MAX`]. One transaction may have many megabytes: see
    /// [`super::TransactionPages`].
    pub async fn scan_transactions(&self, first: TxId, limit: u32) -> Result<Vec<Transaction>, Error> {
        let raw = schema::EntryTypeSpec { action: schema::EntryTypeAction::RawValue.into() };
        let spec = schema::EntriesSpec { kv_entries_spec: Some(raw) };
        let page = self.tx_scan(first, limit, Some(spec)).await?;
        page.into_iter().map(Transaction::try_from).collect()
    }

    /// Returns the headers and keys of at most `limit` transactions from `first` on, without a gap,
    /// and none after the last one. Values are not sent. The limit is at most [`PAGE_LIMIT_MAX`].
    ///
    /// Where the answer would be too large, there are fewer transactions, but at least one. So only
    /// an empty answer is the end.
    pub async fn scan_headers(&self, first: TxId, limit: u32) -> Result<Vec<TransactionKeys>, Error> {
        let mut limit = limit;
        let page = loop {
            // With a specification, entries of some kinds would be left out.
            match self.tx_scan(first, limit, None).await {
                Err(error) if error.kind == ErrorKind::TooLarge && limit > 1 => limit /= 2,
                answer => break answer?,
            }
        };
        let page = page.into_iter().map(TransactionKeys::try_from).collect::<Result<Vec<_>, _>>()?;
        pages::after(first, page.iter().map(|transaction| transaction.header.id))?;
        Ok(page)
    }

    /// Returns the transaction `tx` without its values, and the proof that it and the transaction
    /// `since`, which may be earlier, later or the same one, are in one history.
    pub async fn verifiable_tx(&self, tx: TxId, since: TxId) -> Result<VerifiableTx, Error> {
        let request = self.request(schema::VerifiableTxRequest {
            tx: tx.0,
            prove_since_tx: since.0,
            keep_references_unresolved: true,
        });
        let call = "VerifiableTxById";
        let answer = self.answer(call, self.client.clone().verifiable_tx_by_id(request)).await?;
        let found = VerifiableTx::try_from(answer)?;
        if found.transaction.header.id != tx {
            let text = format!("received transaction {} instead of {tx}", found.transaction.header.id);
            return Err(Error::corrupted(call, text));
        }
        Ok(found)
    }

    /// Returns the value that the transaction `tx` wrote, with the proof that it is an entry of
    /// that transaction, and that the transaction and the transaction `since`, which may be
    /// earlier, later or the same one, are in one history. Does not depend on the index. It is an
    /// error if the transaction did not write the key.
    pub async fn verifiable_get(&self, key: &[u8], tx: TxId, since: TxId) -> Result<VerifiableEntry, Error> {
        let request = self.request(schema::VerifiableGetRequest {
            key_request: Some(schema::KeyRequest { key: Bytes::copy_from_slice(key), at_tx: tx.0 }),
            prove_since_tx: since.0,
        });
        let call = "VerifiableGet";
        let answer = self.answer(call, self.client.clone().verifiable_get(request)).await?;
        let found = VerifiableEntry::try_from(answer)?;
        if found.key != key || found.header.id != tx {
            let text = format!("received an entry of transaction {} instead of {tx}", found.header.id);
            return Err(Error::corrupted(call, text));
        }
        Ok(found)
    }

    /// Returns the last committed transaction and the hash of the history that ends with it, with
    /// the signature of the server if it has a signing key. Like every call, it keeps an idle
    /// session alive.
    pub async fn current_state(&self) -> Result<DatabaseState, Error> {
        let request = self.request(());
        let answer = self.answer("CurrentState", self.client.clone().current_state(request)).await?;
        let found = DatabaseState::try_from(answer)?;
        if found.database != self.database {
            let text = format!("received the state of the database {:?}", found.database);
            return Err(Error::corrupted("CurrentState", text));
        }
        Ok(found)
    }

    /// Returns the last committed transaction, or 0 if there is none.
    pub async fn current_tx(&self) -> Result<TxId, Error> {
        Ok(self.current_state().await?.state.tx)
    }

    /// Tells the server that the session is still in use.
    pub async fn keep_alive(&self) -> Result<(), Error> {
        let request = self.request(());
        Ok(self.answer("KeepAlive", self.client.clone().keep_alive(request)).await?)
    }

    /// Frees the session on the server, if the server can be reached.
    pub async fn close(self) {
        let request = self.request(());
        if let Err(failure) = self.answer("CloseSession", self.client.clone().close_session(request)).await {
            tracing::debug!(error = %Error::from(failure), "cannot close the session");
        }
    }

    pub(super) fn response_bytes_max(&self) -> usize {
        self.response_bytes_max
    }

    pub(super) async fn log_in(
        client: &ImmuServiceClient<Channel>,
        settings: &SessionSettings,
        database: &str,
    ) -> Result<Session, Error> {
        const OPERATION: &str = "OpenSession";
        let password = settings.current_password(OPERATION)?;
        let mut request = Request::new(schema::OpenSessionRequest {
            username: Bytes::copy_from_slice(settings.username.as_bytes()),
            password: Bytes::copy_from_slice(password.expose().as_bytes()),
            database_name: database.to_owned(),
        });
        request.set_timeout(settings.request_timeout);
        let mut client = client.clone();
        let opened = match tokio::time::timeout(settings.request_timeout, client.open_session(request)).await
        {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                return Err(explained(FailedCall::from_status(OPERATION, &status), settings).await);
            }
            Err(_) => return Err(FailedCall::timed_out(OPERATION, settings.request_timeout).into()),
        };
        let mut id = MetadataValue::try_from(opened.session_id)
            .map_err(|_| Error::corrupted(OPERATION, "the session id is not a valid header value".into()))?;
        id.set_sensitive(true);
        Ok(Session {
            client,
            id,
            server_uuid: opened.server_uuid,
            database: database.to_lowercase(),
            request_timeout: settings.request_timeout,
            response_bytes_max: settings.response_bytes_max,
        })
    }

    /// Returns a page of transactions with the entries that `spec` selects, or with the digests of
    /// all entries.
    async fn tx_scan(
        &self,
        first: TxId,
        limit: u32,
        spec: Option<schema::EntriesSpec>,
    ) -> Result<Vec<schema::Tx>, Error> {
        within_page_limit("TxScan", limit.into())?;
        let request = self.request(schema::TxScanRequest {
            initial_tx: first.0,
            limit,
            entries_spec: spec,
            // Neither raw values nor digests need the index, so an old one is sufficient, and no
            // flush is triggered.
            since_tx: 1,
        });
        match self.answer("TxScan", self.client.clone().tx_scan(request)).await {
            Ok(page) => Ok(page.txs),
            Err(failure) => {
                let error = Error::from(failure);
                // If nothing was ever written, `since_tx` itself is rejected.
                if error.kind == ErrorKind::Rejected && self.current_tx().await? == TxId(0) {
                    return Ok(Vec::new());
                }
                Err(error)
            }
        }
    }

    pub(super) async fn create_database(&self, name: &str) -> Result<(), Error> {
        let request = self.request(schema::CreateDatabaseRequest {
            name: name.to_owned(),
            settings: Some(database_settings()),
            if_not_exists: true,
        });
        self.answer("CreateDatabaseV2", self.client.clone().create_database_v2(request)).await?;
        Ok(())
    }

    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.request_timeout);
        request.metadata_mut().insert("sessionid", self.id.clone());
        request
    }

    pub(super) async fn answer<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, FailedCall> {
        within(operation, self.request_timeout, call).await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("server_uuid", &self.server_uuid).finish_non_exhaustive()
    }
}

/// Enforces a deadline that includes the body of the answer, which `grpc-timeout` on the client
/// side does not.
async fn within<T>(
    operation: &'static str,
    timeout: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, FailedCall> {
    match tokio::time::timeout(timeout, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(FailedCall::from_status(operation, &status)),
        Err(_) => Err(FailedCall::timed_out(operation, timeout)),
    }
}

fn within_page_limit(operation: &'static str, limit: u64) -> Result<(), FailedCall> {
    if (1..=u64::from(PAGE_LIMIT_MAX)).contains(&limit) {
        return Ok(());
    }
    Err(FailedCall::rejected(operation, format!("the limit is {limit}; it must be 1 to {PAGE_LIMIT_MAX}")))
}

fn is_database_missing(error: &Error) -> bool {
    error.kind == ErrorKind::Configuration && error.message.contains("does not exist")
}

/// Returns settings for many small transactions, one after the other: commits that do not wait for
/// others (with any `syncFrequency` but 0, the server sleeps before it syncs), transactions large
/// enough for an append, and an index that reclaims its garbage.
fn database_settings() -> schema::DatabaseNullableSettings {
    schema::DatabaseNullableSettings {
        max_key_len: Some(schema::NullableUint32 { value: KEY_BYTES_MAX + 1 }),
        max_tx_entries: Some(schema::NullableUint32 { value: ENTRIES_MAX }),
        max_concurrency: Some(schema::NullableUint32 { value: 100 }),
        index_settings: Some(schema::IndexNullableSettings {
            cleanup_percentage: Some(schema::NullableFloat { value: 5.0 }),
        }),
        autoload: Some(schema::NullableBool { value: true }),
        sync_frequency: Some(schema::NullableMilliseconds { value: 0 }),
    }
}

impl From<KeyValue> for schema::KeyValue {
    fn from(KeyValue { key, value }: KeyValue) -> schema::KeyValue {
        schema::KeyValue { key, value }
    }
}

impl From<Precondition> for schema::Precondition {
    fn from(condition: Precondition) -> schema::Precondition {
        use precondition::{
            KeyMustExistPrecondition, KeyMustNotExistPrecondition, KeyNotModifiedAfterTxPrecondition,
            Precondition as Wire,
        };
        let wire = match condition {
            Precondition::KeyMustExist(key) => Wire::KeyMustExist(KeyMustExistPrecondition { key }),
            Precondition::KeyMustNotExist(key) => Wire::KeyMustNotExist(KeyMustNotExistPrecondition { key }),
            Precondition::KeyNotModifiedAfterTx { key, tx } => {
                Wire::KeyNotModifiedAfterTx(KeyNotModifiedAfterTxPrecondition { key, tx_id: tx.0 })
            }
        };
        schema::Precondition { precondition: Some(wire) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_is_read_at_each_login() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        let mut settings = SessionSettings {
            address: "127.0.0.1".to_owned(),
            port: 1,
            tls: None,
            username: "aethyr".to_owned(),
            password: Secret::new("other"),
            password_file: None,
            database: "aethyr".to_owned(),
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(1),
            response_bytes_max: 1024,
        };
        assert_eq!(settings.current_password("OpenSession").unwrap().expose(), "other");
        settings.password_file = Some(path.clone());
        let missing = settings.current_password("OpenSession").unwrap_err();
        assert_eq!(missing.kind, ErrorKind::Configuration);
        assert!(missing.to_string().starts_with("OpenSession: password: "), "{missing}");
        for password in ["first", "second"] {
            std::fs::write(&path, format!("{password}\n")).unwrap();
            assert_eq!(settings.current_password("OpenSession").unwrap().expose(), password);
        }
        assert!(!format!("{settings:?}").contains("other"));
    }
}
