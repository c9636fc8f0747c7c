//! What only the administrator of an ImmuDB may do: create a database, and a user who may do
//! nothing but read and write in it.

use bytes::Bytes;

use super::{
    Error, ErrorKind, Session, SessionSettings,
    connection::connect,
    schema::{
        ChangePasswordRequest, ChangePermissionRequest, CreateUserRequest, PermissionAction,
        SetActiveUserRequest, User,
    },
    session::DEFAULT_DATABASE,
};
use crate::secret::Secret;

/// The permission to read and write in a database, and nothing else.
const READ_AND_WRITE: u32 = 2;

/// A session of the administrator.
#[derive(Debug)]
pub struct Administrator {
    session: Session,
    settings: SessionSettings,
}

/// A user who may read and write in one database.
#[derive(Debug, Clone)]
pub struct DatabaseUser {
    /// The name: letters, digits and underscores.
    pub name: String,
    /// The password.
    pub password: Secret,
    /// The only database that the user may use. It must exist.
    pub database: String,
}

/// What had to be done so that a user is as wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserChange {
    /// Nothing: it was as wanted.
    None,
    /// Its password, its permissions or its state were changed, which has ended its sessions.
    Changed,
    /// It was created.
    Created,
}

/// What differs between a user and the wanted one, apart from the password.
#[derive(Debug, PartialEq, Eq)]
struct Differences {
    is_inactive: bool,
    /// Permissions in other databases, which are not wanted.
    others: Vec<(String, u32)>,
    lacks_permission: bool,
}

impl Administrator {
    /// Logs in as the user in the settings, who must be the administrator.
    ///
    /// # Errors
    /// Returns an error if the server cannot be reached, or if it rejects the login.
    pub async fn log_in(settings: &SessionSettings) -> Result<Self, Error> {
        let client = connect(settings).await?;
        let session = Session::log_in(&client, settings, DEFAULT_DATABASE).await?;
        Ok(Self { session, settings: settings.clone() })
    }

    /// Creates the database, with settings suited to events, if it does not exist.
    ///
    /// # Errors
    /// Returns an error if the call fails.
    pub async fn ensure_database(&self, name: &str) -> Result<(), Error> {
        self.session.create_database(name).await
    }

    /// Creates the user, or changes it so that its password is this one and that it may read and
    /// write in the database and do nothing else. May be repeated, also after a failure.
    ///
    /// # Errors
    /// Returns an error if a call fails.
    pub async fn ensure_user(&self, user: &DatabaseUser) -> Result<UserChange, Error> {
        let Some(found) = self.find(&user.name).await? else {
            self.create(user).await?;
            return Ok(UserChange::Created);
        };
        let differences = Differences::of(&found, &user.database);
        let mut change = UserChange::None;
        if differences.is_inactive {
            self.activate(user).await?;
            change = UserChange::Changed;
        }
        for (database, permission) in &differences.others {
            self.permit(user, PermissionAction::Revoke, database, *permission).await?;
            change = UserChange::Changed;
        }
        // ImmuDB also sets the user's rights to SQL with each change, so the last change is this.
        if differences.lacks_permission || !differences.others.is_empty() {
            self.permit(user, PermissionAction::Grant, &user.database, READ_AND_WRITE).await?;
            change = UserChange::Changed;
        }
        if !self.has_password(user).await? {
            self.set_password(user).await?;
            change = UserChange::Changed;
        }
        Ok(change)
    }

    /// Ends the session.
    pub async fn close(self) {
        self.session.close().await;
    }

    async fn find(&self, name: &str) -> Result<Option<User>, Error> {
        let request = self.session.request(());
        let mut client = self.session.client.clone();
        let list = self.session.answer("ListUsers", client.list_users(request)).await?;
        Ok(list.users.into_iter().find(|user| user.user == name.as_bytes()))
    }

    async fn create(&self, user: &DatabaseUser) -> Result<(), Error> {
        let request = self.session.request(CreateUserRequest {
            user: bytes_of(&user.name),
            password: bytes_of(user.password.expose()),
            permission: READ_AND_WRITE,
            database: user.database.clone(),
        });
        let mut client = self.session.client.clone();
        Ok(self.session.answer("CreateUser", client.create_user(request)).await?)
    }

    async fn activate(&self, user: &DatabaseUser) -> Result<(), Error> {
        let request =
            self.session.request(SetActiveUserRequest { active: true, username: user.name.clone() });
        let mut client = self.session.client.clone();
        Ok(self.session.answer("SetActiveUser", client.set_active_user(request)).await?)
    }

    async fn permit(
        &self,
        user: &DatabaseUser,
        action: PermissionAction,
        database: &str,
        permission: u32,
    ) -> Result<(), Error> {
        let request = self.session.request(ChangePermissionRequest {
            action: action.into(),
            username: user.name.clone(),
            database: database.to_owned(),
            permission,
        });
        let mut client = self.session.client.clone();
        Ok(self.session.answer("ChangePermission", client.change_permission(request)).await?)
    }

    async fn set_password(&self, user: &DatabaseUser) -> Result<(), Error> {
        let request = self.session.request(ChangePasswordRequest {
            user: bytes_of(&user.name),
            old_password: Bytes::new(),
            new_password: bytes_of(user.password.expose()),
        });
        let mut client = self.session.client.clone();
        Ok(self.session.answer("ChangePassword", client.change_password(request)).await?)
    }

    /// Returns whether the user can log in with its password. Its permission must be right.
    async fn has_password(&self, user: &DatabaseUser) -> Result<bool, Error> {
        let settings = SessionSettings {
            username: user.name.clone(),
            password: user.password.clone(),
            password_file: None,
            database: user.database.clone(),
            ..self.settings.clone()
        };
        match Session::open_existing(&settings).await {
            Ok(session) => {
                session.close().await;
                Ok(true)
            }
            Err(error) if error.kind == ErrorKind::Configuration => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Differences {
    fn of(found: &User, database: &str) -> Self {
        let is_wanted = |name: &str| name == database;
        let others = found.permissions.iter().filter(|permission| !is_wanted(&permission.database));
        let mut wanted = found.permissions.iter().filter(|permission| is_wanted(&permission.database));
        Self {
            is_inactive: !found.active,
            others: others.map(|other| (other.database.clone(), other.permission)).collect(),
            lacks_permission: wanted.all(|permission| permission.permission != READ_AND_WRITE),
        }
    }
}

fn bytes_of(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{super::schema::Permission, *};

    fn user(active: bool, permissions: &[(&str, u32)]) -> User {
        let permission = |(database, permission): &(&str, u32)| Permission {
            database: (*database).to_owned(),
            permission: *permission,
        };
        User { user: bytes_of("aethyr"), permissions: permissions.iter().map(permission).collect(), active }
    }

    #[test]
    fn a_user_that_may_only_write_in_its_database_is_as_wanted() {
        let nothing = Differences { is_inactive: false, others: Vec::new(), lacks_permission: false };
        assert_eq!(Differences::of(&user(true, &[("world", 2)]), "world"), nothing);
        let inactive = Differences { is_inactive: true, ..nothing };
        assert_eq!(Differences::of(&user(false, &[("world", 2)]), "world"), inactive);
    }

    #[test]
    fn every_other_permission_is_named() {
        type Case<'a> = (&'a [(&'a str, u32)], Vec<(String, u32)>, bool);
        let cases: [Case; 5] = [
            (&[], vec![], true),
            (&[("world", 1)], vec![], true),
            (&[("world", 254)], vec![], true),
            (&[("worlds", 2)], vec![("worlds".to_owned(), 2)], true),
            (&[("world", 2), ("defaultdb", 254)], vec![("defaultdb".to_owned(), 254)], false),
        ];
        for (permissions, others, lacks_permission) in cases {
            let found = Differences::of(&user(true, permissions), "world");
            assert_eq!(found, Differences { is_inactive: false, others, lacks_permission });
        }
    }
}
