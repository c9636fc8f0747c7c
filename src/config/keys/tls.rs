//! The check of the mappings `server.tls` and `immudb.tls`.

use serde_yaml::Value;

use super::{ConfigError, ValueKind, shown_name, shown_value};

pub(super) const EXPECTED: &str = "a mapping of keys to values, or null for connections without TLS";

/// A key of the mapping.
pub(super) struct Field {
    name: &'static str,
    kind: ValueKind,
    is_required: bool,
}

pub(super) const SERVER: [Field; 4] = [
    required("certificate_file", ValueKind::File),
    required("key_file", ValueKind::File),
    optional("client_ca_file", ValueKind::File),
    optional("client_certificates", ValueKind::ClientCertificates),
];
pub(super) const IMMUDB: [Field; 4] = [
    optional("ca_file", ValueKind::File),
    optional("server_name", ValueKind::Host),
    optional("certificate_file", ValueKind::File),
    optional("key_file", ValueKind::File),
];

const fn required(name: &'static str, kind: ValueKind) -> Field {
    Field { name, kind, is_required: true }
}

const fn optional(name: &'static str, kind: ValueKind) -> Field {
    Field { name, kind, is_required: false }
}

pub(super) fn check(path: &str, fields: &[Field], value: &Value) -> Result<(), ConfigError> {
    let tls = match value {
        Value::Null => return Ok(()),
        Value::Mapping(tls) => tls,
        other => return Err(invalid(path.to_owned(), other, EXPECTED.to_owned())),
    };
    for (name, value) in tls {
        let Some(field) = fields.iter().find(|field| name.as_str() == Some(field.name)) else {
            return Err(ConfigError::UnknownKey {
                key: format!("{path}.{}", shown_name(name)),
                known: fields.iter().map(|field| field.name).collect(),
            });
        };
        if !field.kind.accepts(value) {
            return Err(invalid(format!("{path}.{}", field.name), value, field.kind.to_string()));
        }
    }
    match fields.iter().find(|field| field.is_required && !tls.contains_key(field.name)) {
        Some(field) => Err(invalid(format!("{path}.{}", field.name), &Value::Null, field.kind.to_string())),
        None => Ok(()),
    }
}

fn invalid(key: String, value: &Value, expected: String) -> ConfigError {
    ConfigError::Invalid { key, variable: None, found: shown_value(value), expected }
}

#[cfg(test)]
mod tests {
    use super::super::super::{
        ClientCertificates, ImmudbTlsConfig, TlsConfig,
        tests::{config_of, error_of, load_with},
    };

    #[test]
    fn certificates_of_both_connections_are_read_and_written_out_again() {
        let server =
            "{ certificate_file: /c, key_file: /k, client_ca_file: /a, client_certificates: required }";
        let immudb = "{ ca_file: /a, server_name: immudb.example, certificate_file: /c, key_file: /k }";
        let config = config_of(&format!("server: {{ tls: {server} }}\nimmudb: {{ tls: {immudb} }}"));
        let expected = TlsConfig {
            certificate_file: "/c".into(),
            key_file: "/k".into(),
            client_ca_file: Some("/a".into()),
            client_certificates: ClientCertificates::Required,
        };
        assert_eq!(config.server.tls, Some(expected));
        let expected = ImmudbTlsConfig {
            ca_file: Some("/a".into()),
            server_name: Some("immudb.example".into()),
            certificate_file: Some("/c".into()),
            key_file: Some("/k".into()),
        };
        assert_eq!(config.immudb.as_ref().unwrap().tls, Some(expected));
        // The password is not written out.
        let again = config_of(&config.to_yaml_redacted());
        assert_eq!(again.server, config.server);
        assert_eq!(again.immudb.unwrap().tls, config.immudb.unwrap().tls);
    }

    #[test]
    fn an_empty_mapping_means_tls_with_immudb_and_null_means_none() {
        let tls = |yaml: &str| config_of(yaml).immudb.unwrap().tls;
        assert_eq!(tls("immudb: { tls: {} }"), Some(ImmudbTlsConfig::default()));
        assert_eq!(tls("immudb: { tls: null }"), None);
        assert_eq!(tls("immudb: { tls: }"), None);
        let variable = ("AETHYR_IMMUDB__TLS", "{ ca_file: /ca.pem }");
        let config = load_with("immudb: {}", &[variable]).unwrap().config;
        assert_eq!(config.immudb.unwrap().tls.unwrap().ca_file, Some("/ca.pem".into()));
        let config = config_of("server: { tls: { certificate_file: /c, key_file: /k } }");
        assert_eq!(config.server.tls.unwrap().client_certificates, ClientCertificates::Optional);
    }

    #[test]
    fn an_invalid_key_of_tls_is_named() {
        for (yaml, expected) in [
            (
                "server: { tls: on }",
                "server.tls: found \"on\", expected a mapping of keys to values, or null for connections without TLS",
            ),
            ("server: { tls: {} }", "server.tls.certificate_file: found nothing, expected a file path"),
            (
                "server: { tls: { certificate_file: /c } }",
                "server.tls.key_file: found nothing, expected a file path",
            ),
            (
                "server: { tls: { certificate_file: /c, key_file: '' } }",
                "server.tls.key_file: found \"\", expected a file path",
            ),
            (
                "server: { tls: { certificat_file: /c } }",
                "server.tls.certificat_file: unknown key (did you mean certificate_file?); known keys: \
                 certificate_file, key_file, client_ca_file, client_certificates",
            ),
            (
                "server: { tls: { certificate_file: /c, key_file: /k, client_certificates: none } }",
                "server.tls.client_certificates: found \"none\", expected optional or required",
            ),
            (
                "server: { tls: { certificate_file: /c, key_file: /k, client_certificates: required } }",
                "server.tls.client_ca_file: found nothing, expected a file path, because \
                 server.tls.client_certificates is required",
            ),
            (
                "immudb: { tls: { certificate_file: /c } }",
                "immudb.tls.key_file: found nothing, expected a file path, because \
                 immudb.tls.certificate_file is set",
            ),
            (
                "immudb: { tls: { key_file: /k } }",
                "immudb.tls.certificate_file: found nothing, expected a file path, because \
                 immudb.tls.key_file is set",
            ),
            (
                "immudb: { tls: { server_name: 'a:1' } }",
                "immudb.tls.server_name: found \"a:1\", expected a host name or IP address without a port",
            ),
        ] {
            let error = error_of(yaml, &[]);
            assert!(error.starts_with(expected), "{yaml}: {error}");
        }
        let error = error_of("", &[("AETHYR_SERVER__TLS", "{ key_file: 1 }")]);
        assert!(error.starts_with("server.tls.key_file (from AETHYR_SERVER__TLS): found 1, "), "{error}");
    }
}
