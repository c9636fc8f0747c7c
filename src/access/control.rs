//! The policy in effect, and the caller of one call.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use tokio::sync::watch;

use super::{Credential, Identity, Policy, Right};

/// How often an open stream compares the validity of its token with the clock.
const CLOCK_EVERY: Duration = Duration::from_secs(10);

/// The policy in effect. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessControl(watch::Receiver<Arc<Policy>>);

impl AccessControl {
    /// Returns access control with a policy that never changes.
    pub fn fixed(policy: Policy) -> Self {
        Self::channel(policy).1
    }

    /// Returns access control with a policy that can be replaced through the sender.
    pub fn channel(policy: Policy) -> (watch::Sender<Arc<Policy>>, Self) {
        let (sender, receiver) = watch::channel(Arc::new(policy));
        (sender, Self(receiver))
    }

    /// Returns the policy in effect.
    pub fn policy(&self) -> Arc<Policy> {
        self.0.borrow().clone()
    }
}

/// The caller of one call.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Who calls, as of the start of the call.
    pub identity: Arc<Identity>,
    /// How the identity was proven.
    pub credential: Credential,
    control: AccessControl,
}

impl Principal {
    /// Returns the caller that was identified.
    pub fn new(identity: Arc<Identity>, credential: Credential, control: AccessControl) -> Self {
        Self { identity, credential, control }
    }

    /// Returns the service itself, and every caller while access control is off: it has all rights,
    /// and its name is empty.
    pub fn unrestricted() -> Self {
        static UNRESTRICTED: LazyLock<Principal> = LazyLock::new(|| {
            let identity = Arc::new(Identity::unrestricted());
            Principal::new(identity, Credential::Off, AccessControl::fixed(Policy::off()))
        });
        UNRESTRICTED.clone()
    }

    /// Returns whether the caller has the right.
    pub fn may(&self, right: Right) -> bool {
        self.identity.rights.has(right)
    }

    /// Returns the name for `recorded_by`. It is empty while access control is off.
    pub fn recorded_by(&self) -> Arc<str> {
        self.identity.name.clone()
    }

    /// Says why the caller is not accepted any more.
    pub fn cause_of_revocation(&self) -> String {
        match self.control.policy().identity_of(&self.credential, SystemTime::now()) {
            Err(denied) => denied.to_string(),
            Ok(_) => "the role or the name of the identity has changed".to_owned(),
        }
    }

    /// Waits until the credential is revoked or expires, or proves another identity, or one with
    /// other rights, another scope or other actors. Every new policy is examined, and the clock
    /// every 10 s. Never ends while access control is off.
    pub async fn revoked(&self) {
        let mut policies = self.control.0.clone();
        if policies.borrow().is_off() {
            std::future::pending::<()>().await;
        }
        loop {
            let is_held = self.is_held(&policies.borrow_and_update(), SystemTime::now());
            if !is_held {
                return;
            }
            tokio::select! {
                // Without a sender, the policy does not change.
                Ok(()) = policies.changed() => {}
                () = tokio::time::sleep(CLOCK_EVERY) => {}
            }
        }
    }

    /// Returns whether the credential still proves the identity, with the same rights.
    fn is_held(&self, policy: &Policy, now: SystemTime) -> bool {
        let (before, Ok(now)) = (&self.identity, policy.identity_of(&self.credential, now)) else {
            return false;
        };
        (&before.name, before.rights, &before.scope, &before.actors)
            == (&now.name, now.rights, &now.scope, &now.actors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{AccessSettings, Offer, Token};

    fn policy(yaml: &str) -> Policy {
        Policy::parse(yaml, &AccessSettings::default()).unwrap()
    }

    fn with_token(token: &Token, role: &str, more: &str) -> String {
        let (id, hash) = (token.id(), token.hash());
        format!("arena-1: {{ role: {role}, tokens: [{{ id: {id}, hash: \"{hash}\"{more} }}] }}")
    }

    fn principal(token: &Token, control: &AccessControl) -> Principal {
        let offer = Offer { token: Some(token.text()), is_protected: true, ..Offer::default() };
        let (identity, credential) = control.policy().identify(offer, SystemTime::now()).unwrap();
        Principal::new(identity, credential, control.clone())
    }

    #[test]
    fn the_service_itself_may_do_everything_and_has_no_name() {
        let itself = Principal::unrestricted();
        assert!(Right::ALL.into_iter().all(|right| itself.may(right)));
        assert_eq!((&*itself.recorded_by(), itself.credential), ("", Credential::Off));
        assert!(itself.identity.scope.is_unrestricted());
    }

    #[test]
    fn a_principal_is_held_while_its_credential_gives_the_same() {
        let token = Token::generate().unwrap();
        let roles = "roles:\n  a: { may: [load, stats], prefixes: [x-], actors: [w] }\n";
        let of = |roles: &str, line: &str| policy(&format!("{roles}identities:\n  {line}\n"));
        let line = with_token(&token, "a", "");
        let control = AccessControl::fixed(of(roles, &line));
        let caller = principal(&token, &control);
        assert!(caller.may(Right::Load) && !caller.may(Right::Append));
        assert_eq!(&*caller.recorded_by(), "arena-1");
        let now = SystemTime::now();
        // A second token and other limits change nothing for it.
        let other = Token::generate().unwrap();
        let more = format!(" }}, {{ id: {}, hash: \"{}\"", other.id(), other.hash());
        let limited = roles.replace("may:", "shares: { share: 0.1 }, event_types: [E], may:");
        for held in [of(roles, &line), of(roles, &with_token(&token, "a", &more)), of(&limited, &line)] {
            assert!(caller.is_held(&held, now));
        }
        let unused = with_token(&other, "a", "");
        for (what, changed) in [
            ("removed", of(roles, "b: { role: a }")),
            ("replaced", of(roles, &unused)),
            ("renamed", of(roles, &line.replace("arena-1", "arena-2"))),
            ("another role", of(roles, &with_token(&token, "reader", ""))),
            ("other rights", of(&roles.replace("load, ", ""), &line)),
            ("another scope", of(&roles.replace("x-", "y-"), &line)),
            ("other actors", of(&roles.replace("[w]", "[]"), &line)),
            ("expired", of(roles, &with_token(&token, "a", ", expires: 2001-01-01"))),
        ] {
            assert!(!caller.is_held(&changed, now), "{what}");
        }
        let expiring = of(roles, &with_token(&token, "a", ", expires: 9000-01-01"));
        assert!(caller.is_held(&expiring, now));
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(250_000_000_000);
        assert!(!caller.is_held(&expiring, late));
    }

    #[tokio::test]
    async fn a_removed_identity_is_revoked_and_a_new_policy_without_change_is_not() {
        let token = Token::generate().unwrap();
        let yaml = format!("identities:\n  {}\n", with_token(&token, "reader", ""));
        let (sender, control) = AccessControl::channel(policy(&yaml));
        let caller = principal(&token, &control);
        let mut revoked = std::pin::pin!(caller.revoked());
        let is_pending = |polled: std::task::Poll<()>| polled.is_pending();
        assert!(is_pending(futures_util::poll!(revoked.as_mut())));
        sender.send(Arc::new(policy(&yaml))).unwrap();
        assert!(is_pending(futures_util::poll!(revoked.as_mut())));
        sender.send(Arc::new(policy("identities: {}"))).unwrap();
        revoked.await;
        // A change before the wait began counts as well.
        caller.revoked().await;
    }

    #[tokio::test(start_paused = true)]
    async fn without_access_control_nobody_is_revoked() {
        let itself = Principal::unrestricted();
        let waited = tokio::time::timeout(Duration::from_secs(1000), itself.revoked()).await;
        assert!(waited.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_fixed_policy_is_compared_with_the_clock_only() {
        let token = Token::generate().unwrap();
        let yaml = format!("identities:\n  {}\n", with_token(&token, "reader", ""));
        let caller = principal(&token, &AccessControl::fixed(policy(&yaml)));
        let waited = tokio::time::timeout(Duration::from_secs(1000), caller.revoked()).await;
        assert!(waited.is_err());
        // The credential of an identity that has expired meanwhile.
        let expired = format!("identities:\n  {}\n", with_token(&token, "reader", ", expires: 2001-01-01"));
        let expired = AccessControl::fixed(policy(&expired));
        Principal::new(caller.identity.clone(), caller.credential.clone(), expired).revoked().await;
    }
}
