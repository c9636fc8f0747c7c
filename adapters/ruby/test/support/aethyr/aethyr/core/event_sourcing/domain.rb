# frozen_string_literal: true

# A stand-in of Aethyr's aggregates. The handlers of GameObject are not those of Room, as in Sequent.
require "aethyr/core/event_sourcing/events"

module Aethyr
  module Core
    module EventSourcing
      module Domain
        class GameObject < Sequent::AggregateRoot
          attr_reader :name, :container_id, :attributes

          def initialize(id, name, generic, container = nil)
            super(id)
            apply GameObjectCreated, name: name, generic: generic, container_id: container, attributes: {}
          end

          def set(key, value) = apply(GameObjectAttributeUpdated, key: key, value: value)
          def move(container) = apply(GameObjectContainerUpdated, container_id: container)

          on(GameObjectCreated) do |event|
            @name = event.name
            @attributes = event.attributes || {}
            @container_id = event.container_id
          end
          on(GameObjectAttributeUpdated) { |event| @attributes[event.key] = event.value }
          on(GameObjectContainerUpdated) { |event| @container_id = event.container_id }
        end

        class Room < GameObject
          attr_reader :description

          def initialize(id, name, description)
            super(id, name, "room")
            apply RoomCreated, description: description, exits: {}
          end

          def describe(text) = apply(RoomDescriptionUpdated, description: text)

          on(RoomCreated, RoomDescriptionUpdated) { |event| @description = event.description }
        end

        class Player < GameObject
          def initialize(id, name, hash)
            super(id, name, "player")
            apply PlayerCreated, password_hash: hash, admin: false
          end

          def change_password(hash) = apply(PlayerPasswordUpdated, password_hash: hash)
        end
      end
    end
  end
end
