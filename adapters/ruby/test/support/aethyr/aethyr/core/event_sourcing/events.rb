# frozen_string_literal: true

# A stand-in of Aethyr's events.
module Aethyr
  module Core
    module EventSourcing
      def self.event(name, **fields)
        const_set(name, Class.new(Sequent::Event) { attrs(fields) unless fields.empty? })
      end

      event :GameObjectCreated, name: String, generic: String, container_id: String, attributes: Hash
      event :GameObjectAttributeUpdated, key: String, value: Object
      event :GameObjectContainerUpdated, container_id: String
      event :RoomCreated, description: String, exits: Hash
      event :RoomDescriptionUpdated, description: String
      event :PlayerCreated, password_hash: String, admin: Object
      event :PlayerPasswordUpdated, password_hash: String
    end
  end
end
