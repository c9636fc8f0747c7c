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

      # What may be the name of a class. Other programs name their types as they like.
      CLASS = /\A[A-Z]\w*(::[A-Z]\w*)*\z/

      # The class of a name, or nil.
      def self.class_of(name)
        found = Object.const_get(name) if name.match?(CLASS) && Object.const_defined?(name)
        found if found.is_a?(Class)
      rescue TypeError
        nil # A part of the name is no module.
      end

      # The name of a class: Aethyr's if it has one of this name, otherwise the game's own.
      def long(name)
        name.include?("::") || Names.class_of(@prefix + name).nil? ? name : @prefix + name
      end

      # Raises NameError if there is no such class.
      def find(name)
        Names.class_of(long(name)) || raise(NameError, "there is no class #{name}")
      end
    end
  end
end
