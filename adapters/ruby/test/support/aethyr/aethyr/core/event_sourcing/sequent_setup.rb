# frozen_string_literal: true

# A stand-in of how Aethyr sets up Sequent.
require "aethyr/core/event_sourcing/immudb_event_store"
%w[domain events commands command_handlers projections].each do |file|
  require "aethyr/core/event_sourcing/#{file}"
end

module Aethyr
  module Core
    module EventSourcing
      class SequentSetup
        def self.configure
          Sequent.configure do |config|
            config.event_store = ImmudbEventStore.new
            config.command_handlers = [GameObjectCommandHandler.new]
            config.event_handlers = [RoomProjector.new]
          end
          true
        end

        def self.rebuild_world_state = true
      end
    end
  end
end
