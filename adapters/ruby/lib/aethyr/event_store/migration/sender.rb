# frozen_string_literal: true

# Owns the sending of the steps of a migration in batches. A batch that is refused is sent again in halves, so
# that one object that the world does not take hinders no other.
module Aethyr
  module EventStore
    module Migration
      class Sender
        # The world allows 100 commands a call.
        BATCH = 100
        ACTOR = "migration"
        DEADLINE = 60
        # Refusals that are about one object. Everything else ends the migration; it is continued by running
        # it again.
        ABOUT_AN_OBJECT = [InvalidArgument, WorldRule, NotFound, ResourceExhausted, Damaged].freeze

        attr_reader :losses, :stored

        def initialize(client, batch: BATCH)
          @client = client
          @batch = [[batch, 1].max, BATCH].min
          @losses = []
          @stored = 0
        end

        def send(phases)
          phases.each do |name, groups|
            done = 0
            slices(groups).each do |slice|
              execute(slice)
              done += slice.size
              yield "#{name}: #{done} of #{groups.size}" if block_given?
            end
          end
        end

        private

        # Groups are not divided: an object is created with its attributes, or not at all.
        def slices(groups)
          slices = [[]]
          groups.each do |group|
            slices << [] if slices.last.sum(&:size) + group.size > @batch
            slices.last << group
          end
          slices.reject(&:empty?)
        end

        def execute(groups)
          commands = groups.flatten.map { |step| Plan.command(step) }
          answer = @client.execute(commands, actor: ACTOR, correlation_id: "aethyr-migration",
                                             deadline: DEADLINE)
          @stored += answer.results.reject(&:already_executed).sum { |result| result.events.size }
        rescue AethyrError => e
          raise unless about_an_object?(e)
          return refused(groups.first, e) if groups.size == 1

          groups.each_slice((groups.size / 2.0).ceil) { |half| execute(half) }
        end

        def about_an_object?(error)
          return false if error.is_a?(ResourceExhausted) && error.reason != "OBJECT_FULL"

          ABOUT_AN_OBJECT.any? { |type| error.is_a?(type) } || error.code == "ALREADY_EXISTS"
        end

        # An object that exists is brought to what the storage says.
        def refused(group, error)
          return without_password(group) if password?(group.first, error)

          steps = error.reason == "OBJECT_EXISTS" ? updates(group) : nil
          return @losses << Loss.new(group.first.id, group.first.type,
                                     "#{group.first.name}: #{error.message}") unless steps

          execute([steps]) unless steps.empty?
        end

        # The service says which hashes it takes.
        def password?(step, error)
          return false unless step.fields.key?(:password_hash) && error.is_a?(InvalidArgument)

          error.violations.any? { |violation| violation.field.include?("password_hash") }
        end

        def without_password(group)
          first = group.first
          @losses << Loss.new(first.id, first.type,
                              "its password: what is stored is no hash that the service takes")
          created = Step.new(**first.to_h, fields: first.fields.except(:password_hash))
          execute([[created, *group.drop(1)]])
        end

        def updates(group)
          first = group.first
          fields = first.fields
          steps = case first.name
                  when :create_room then [[:update_room_description,
                                           { description: fields[:description].to_s }]]
                  when :create_player
                    hash = fields[:password_hash]
                    hash ? [[:update_player_password, { password_hash: hash }]] : []
                  when :create_game_object then [[:update_game_object_attributes,
                                                  { attributes: fields[:attributes] }]]
                  else return
                  end
          steps << [:update_game_object_attribute, { key: "name", value: fields[:name] }] if fields[:name]
          steps.map do |name, more|
            Step.new(id: first.id, type: first.type, name: name, fields: { id: first.id }.merge(more))
          end + group.drop(1)
        end
      end
    end
  end
end
