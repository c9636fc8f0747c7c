//! The differences between two configurations, by key.
//!
//! Values are compared but not returned, so no secret is shown.

use serde_yaml::Value;

use super::{Config, keys::KEYS};

impl Config {
    /// Returns the keys whose values differ from those in `before`. If only one of the two
    /// configurations has the section `immudb`, returns `immudb` instead of its keys.
    pub fn changes_since(&self, before: &Config) -> Vec<&'static str> {
        if self.immudb.is_some() != before.immudb.is_some() {
            let others = KEYS.iter().filter(|key| !key.path.starts_with("immudb."));
            return std::iter::once("immudb")
                .chain(self.changed(before, others.map(|key| key.path)))
                .collect();
        }
        self.changed(before, KEYS.iter().map(|key| key.path)).collect()
    }

    fn changed(
        &self,
        before: &Config,
        paths: impl Iterator<Item = &'static str>,
    ) -> impl Iterator<Item = &'static str> {
        let (now, then) = (self.to_value(), before.to_value());
        // Secrets are serialized as stars, so passwords are compared separately.
        let password = |config: &Config| config.immudb.as_ref().map(|immudb| immudb.password.clone());
        let other_password = password(self) != password(before);
        paths.filter(move |path| {
            value(&now, path) != value(&then, path) || (*path == "immudb.password" && other_password)
        })
    }

    fn to_value(&self) -> Value {
        serde_yaml::to_value(self).unwrap_or_default()
    }
}

fn value<'v>(config: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(config, |value, name| value.get(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::ImmudbConfig, secret::Secret};

    #[test]
    fn changes_are_named_by_key_and_a_password_is_one() {
        let before = Config { immudb: Some(ImmudbConfig::default()), ..Config::default() };
        assert!(before.changes_since(&before.clone()).is_empty());
        let mut now = before.clone();
        now.limits.types_max = 5;
        now.event_sourcing.snapshot_thresholds.insert("Room".into(), 7);
        now.immudb.as_mut().unwrap().password = Secret::new("another");
        let changed = now.changes_since(&before);
        assert_eq!(changed, ["event_sourcing.snapshot_thresholds", "immudb.password", "limits.types_max"]);
        now.immudb = None;
        assert!(now.changes_since(&before).starts_with(&["immudb"]));
    }
}
