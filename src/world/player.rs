//! A player: a game object with a password's hash and the right to administrate, or not.

use serde::{Deserialize, Serialize};

use super::{event::WorldEvent, game_object::GameObject, password::PasswordHash, rule::BrokenRule};

/// Its state after some of its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Player {
    pub object: GameObject,
    /// `PlayerCreated` has happened; it comes in one append with the object's creation.
    pub created: bool,
    pub password_hash: Option<PasswordHash>,
    pub admin: bool,
}

impl Player {
    /// The class of a player's game object.
    pub const CLASS: &str = "Player";

    pub fn new(object: GameObject) -> Self {
        Self { object, created: false, password_hash: None, admin: false }
    }

    /// Takes an event in.
    ///
    /// # Errors
    /// It can't have happened to this player.
    pub fn apply(&mut self, event: &WorldEvent) -> Result<(), BrokenRule> {
        match event {
            WorldEvent::PlayerCreated { .. } if self.created => Err(BrokenRule::CreatedTwice),
            WorldEvent::PlayerCreated { password_hash, admin } => {
                self.created = true;
                self.password_hash.clone_from(password_hash);
                self.admin = *admin;
                Ok(())
            }
            WorldEvent::PlayerPasswordUpdated { password_hash } => {
                self.password_hash = Some(password_hash.clone());
                Ok(())
            }
            WorldEvent::PlayerAdminStatusUpdated { admin } => {
                self.admin = *admin;
                Ok(())
            }
            other => self.object.apply(other),
        }
    }

    pub fn update_password(&self, hash: &PasswordHash) -> Option<WorldEvent> {
        let changes = self.password_hash.as_ref() != Some(hash);
        changes.then(|| WorldEvent::PlayerPasswordUpdated { password_hash: hash.clone() })
    }

    pub fn update_admin_status(&self, admin: bool) -> Option<WorldEvent> {
        (self.admin != admin).then_some(WorldEvent::PlayerAdminStatusUpdated { admin })
    }
}
