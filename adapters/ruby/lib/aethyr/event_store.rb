# frozen_string_literal: true

# Owns what `require "aethyr/event_store"` loads: the client. The adapter for Sequent and for the game Aethyr
# is loaded by `require "aethyr/event_store/aethyr"`. Nothing is put into Object but the module Aethyr.
require "json"
require "securerandom"
require "grpc"
require "google/rpc/status_pb"
require "google/rpc/error_details_pb"
require "aethyr/eventstore/v1/event_store_service_services_pb"
require "aethyr/world/v1/command_service_services_pb"
require "aethyr/world/v1/world_service_services_pb"

require "aethyr/event_store/version"
require "aethyr/event_store/errors"
require "aethyr/event_store/options"
require "aethyr/event_store/calls"
require "aethyr/event_store/attempts"
require "aethyr/event_store/transport"
require "aethyr/event_store/codec"
require "aethyr/event_store/world_calls"
require "aethyr/event_store/subscription"
require "aethyr/event_store/client"
