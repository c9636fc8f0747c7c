# frozen_string_literal: true

# Owns the names of classes in the store: those of Aethyr without their module, as the world of the service
# knows them (`RoomCreated`, `Room`), all others as they are.
module Aethyr
  module EventStore
    class Names
      EVENTS = "Aethyr::Core::EventSourcing::"
      AGGREGATES = "Aethyr::Core::EventSourcing::Domain::"

      def initialize(prefix)
        @prefix = prefix
      end

      def short(name)
        rest = name.delete_prefix(@prefix)
        rest.include?("::") ? name : rest
      end

      # The name of a class: Aethyr's if it has one of this name, otherwise the game's own.
      def long(name)
        name.include?("::") || !Object.const_defined?(@prefix + name) ? name : @prefix + name
      end

      def find(name) = Object.const_get(long(name))
    end
  end
end
