# frozen_string_literal: true

# A stand-in of Aethyr's handlers: they give an id where Sequent wants a command.
module Aethyr
  module Core
    module EventSourcing
      class GameObjectCommandHandler < Sequent::CommandHandler
        on(CreateGameObject) do |c|
          repository.add_aggregate(Domain::GameObject.new(c.id, c.name, c.generic, c.container_id))
        end
        on(CreatePlayer) { |c| repository.add_aggregate(Domain::Player.new(c.id, c.name, c.password_hash)) }
        on(UpdatePlayerPassword) do |c|
          do_with_aggregate(c.id, Domain::Player) { |player| player.change_password(c.password_hash) }
        end
        on(CreateRoom) { |c| repository.add_aggregate(Domain::Room.new(c.id, c.name, c.description)) }
        on(UpdateRoomDescription) do |c|
          do_with_aggregate(c.id, Domain::Room) { |room| room.describe(c.description) }
        end
        on(UpdateGameObjectAttribute) do |c|
          do_with_aggregate(c.id, Domain::GameObject) { |o| o.set(c.key, c.value) }
        end
        on(UpdateGameObjectContainer) do |c|
          do_with_aggregate(c.id, Domain::GameObject) { |o| o.move(c.container_id) }
        end
      end
    end
  end
end
