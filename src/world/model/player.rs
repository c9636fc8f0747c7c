//! A player: a game object with a password hash, and with or without administrator rights.
//!
//! Applies the events of players. All other events are left to the game object.

use serde::{Deserialize, Serialize};

use super::{event::WorldEvent, game_object::GameObject, password::PasswordHash, rule::BrokenRule};

/// The state of a player after some of its events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Player {
    /// The state that all objects have.
    pub object: GameObject,
    /// Whether `PlayerCreated` has been applied. It is part of the append that creates the object.
    pub created: bool,
    /// `None` if the player has no password.
    pub password_hash: Option<PasswordHash>,
    /// Whether the player is an administrator.
    pub admin: bool,
}

impl Player {
    /// The class of a player's game object.
    pub const CLASS: &str = "Player";

    /// Returns the state after `GameObjectCreated`, before `PlayerCreated`.
    pub fn new(object: GameObject) -> Self {
        Self { object, created: false, password_hash: None, admin: false }
    }

    /// Applies an event.
    ///
    /// # Errors
    /// Returns an error if the event is invalid for this player.
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

    /// Returns the event that sets the password, or `None` if it already has this hash.
    pub fn update_password(&self, hash: &PasswordHash) -> Option<WorldEvent> {
        let changes = self.password_hash.as_ref() != Some(hash);
        changes.then(|| WorldEvent::PlayerPasswordUpdated { password_hash: hash.clone() })
    }

    /// Returns the event that grants or revokes administrator rights, or `None` if nothing changes.
    pub fn update_admin_status(&self, admin: bool) -> Option<WorldEvent> {
        (self.admin != admin).then_some(WorldEvent::PlayerAdminStatusUpdated { admin })
    }
}
