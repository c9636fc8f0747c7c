# frozen_string_literal: true

# A stand-in of Aethyr's commands: they have `id`, and no `aggregate_id`.
module Aethyr
  module Core
    module EventSourcing
      def self.command(name, *required, **fields)
        const_set(name, Class.new(Sequent::Command) do
          attrs(id: String, **fields)
          requires(:id, *required)
        end)
      end

      command :CreateGameObject, :name, name: String, generic: String, container_id: String
      command :CreatePlayer, :name, :password_hash, name: String, password_hash: String
      command :UpdatePlayerPassword, :password_hash, password_hash: String
      command :CreateRoom, :name, name: String, description: String
      command :UpdateRoomDescription, description: String
      command :UpdateGameObjectAttribute, :key, key: String, value: Object
      command :UpdateGameObjectContainer, :container_id, container_id: String
      command :DeleteGameObject
    end
  end
end
