# frozen_string_literal: true

# Stands before the file of Aethyr with this name: with `event_store_address` in the configuration, the class
# ImmudbEventStore is that of this gem; otherwise Aethyr's own.
if Aethyr::EventStore::GameConfig.address
  require "aethyr/event_store/game"
  Aethyr::EventStore::Game.install
else
  Aethyr::EventStore::GameConfig.original("aethyr/core/event_sourcing/immudb_event_store")
end
