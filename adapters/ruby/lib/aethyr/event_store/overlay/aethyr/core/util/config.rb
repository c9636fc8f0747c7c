# frozen_string_literal: true

# Stands before the file of Aethyr with this name: loads it, and makes `event_store_address` switch on event
# sourcing.
Aethyr::EventStore::GameConfig.original("aethyr/core/util/config")
Aethyr::EventStore::GameConfig.install
