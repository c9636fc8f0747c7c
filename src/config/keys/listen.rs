//! The check of `server.listen`: an address, or a list of addresses.

use serde_yaml::Value;

use super::{super::sections::ListenAddress, ConfigError, shape, shown_value};

pub(super) const EXPECTED: &str = "an IP address and port, for example 127.0.0.1:50051, a unix socket, for \
                                   example unix:/run/aethyr/store.sock, or a list of them";
const ADDRESSES_MAX: usize = 16;

pub(super) fn check(path: &str, value: &Value) -> Result<(), ConfigError> {
    let Value::Sequence(addresses) = value else {
        return parse(path, value).map(|_| ());
    };
    if addresses.is_empty() || addresses.len() > ADDRESSES_MAX {
        let found = format!("{} with {} entries", shape(value), addresses.len());
        return Err(invalid(path.to_owned(), found, &format!("1 to {ADDRESSES_MAX} addresses")));
    }
    let mut known: Vec<ListenAddress> = Vec::new();
    for (number, address) in (1..).zip(addresses) {
        let path = format!("{path}.{number}");
        let parsed = parse(&path, address)?;
        let is_socket = |address: &ListenAddress| matches!(address, ListenAddress::Unix(_));
        if known.contains(&parsed) {
            return Err(invalid(path, shown_value(address), "each address only once"));
        }
        if is_socket(&parsed) && known.iter().any(is_socket) {
            return Err(invalid(path, shown_value(address), "at most one unix socket"));
        }
        known.push(parsed);
    }
    Ok(())
}

fn parse(path: &str, value: &Value) -> Result<ListenAddress, ConfigError> {
    let is_text = |text: &&str| !text.contains(char::REPLACEMENT_CHARACTER);
    let address = value.as_str().filter(is_text).and_then(ListenAddress::parse);
    address.ok_or_else(|| invalid(path.to_owned(), shown_value(value), EXPECTED))
}

fn invalid(key: String, found: String, expected: &str) -> ConfigError {
    ConfigError::Invalid { key, variable: None, found, expected: expected.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::super::{
        Config, ListenAddress,
        tests::{config_of, error_of, load_with},
    };

    const VARIABLE: &str = "AETHYR_SERVER__LISTEN";

    fn listens(config: &Config) -> Vec<String> {
        config.server.listen.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_address_or_a_list_of_them_is_read_and_written_out_again() {
        let yaml = "server: { listen: ['127.0.0.1:1', '[::1]:1', 'unix:/run/a.sock'] }";
        for (yaml, expected) in [
            ("server: { listen: '[::1]:7' }", vec!["[::1]:7"]),
            ("server: { listen: 'unix:/run/a.sock' }", vec!["unix:/run/a.sock"]),
            ("server: { listen: ['127.0.0.1:1'] }", vec!["127.0.0.1:1"]),
            (yaml, vec!["127.0.0.1:1", "[::1]:1", "unix:/run/a.sock"]),
        ] {
            let config = config_of(yaml);
            assert_eq!(listens(&config), expected);
            assert_eq!(config_of(&config.to_yaml_redacted()), config);
        }
    }

    #[test]
    fn the_environment_separates_addresses_by_commas() {
        let environment = [(VARIABLE, "127.0.0.1:1, unix:/run/a.sock")];
        let config = load_with("server: { listen: '[::1]:7' }", &environment).unwrap().config;
        assert_eq!(listens(&config), ["127.0.0.1:1", "unix:/run/a.sock"]);
        let config = load_with("", &[(VARIABLE, "[::1]:2")]).unwrap().config;
        assert_eq!(config.server.listen.0, [ListenAddress::Tcp("[::1]:2".parse().unwrap())]);
        let error = error_of("", &[(VARIABLE, "127.0.0.1:1,")]);
        assert!(error.starts_with("server.listen.2 (from AETHYR_SERVER__LISTEN): found \"\", "), "{error}");
    }

    #[test]
    fn an_invalid_list_is_named_by_its_entry() {
        let many =
            format!("[{}]", (1..18).map(|port| format!("'127.0.0.1:{port}'")).collect::<Vec<_>>().join(","));
        for (listen, expected) in [
            ("[]", "server.listen: found a list with 0 entries, expected 1 to 16 addresses"),
            (many.as_str(), "server.listen: found a list with 17 entries, expected 1 to 16 addresses"),
            ("['127.0.0.1:1', 5]", "server.listen.2: found 5, expected an IP address and port, "),
            (
                "['127.0.0.1:1', '127.0.0.1:1']",
                "server.listen.2: found \"127.0.0.1:1\", expected each address",
            ),
            (
                "['unix:/a', '127.0.0.1:1', 'unix:/b']",
                "server.listen.3: found \"unix:/b\", expected at most one",
            ),
            ("'unix:'", "server.listen: found \"unix:\", expected an IP address and port, "),
            ("{}", "server.listen: found a mapping, expected an IP address and port, "),
        ] {
            let error = error_of(&format!("server: {{ listen: {listen} }}"), &[]);
            assert!(error.starts_with(expected), "{listen}: {error}");
        }
    }
}
