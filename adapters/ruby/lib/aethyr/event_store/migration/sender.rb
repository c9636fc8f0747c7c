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
        # Refusals that are about one object, or about the size of a call. Everything else ends the
        # migration; it is continued by running it again.
        ABOUT_AN_OBJECT = [InvalidArgument, WorldRule, NotFound, Damaged, NameTaken].freeze

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

        # Groups are not divided: an object is created with its attributes, or not at all. Only the changes
        # of an object that are more than a call may have are several groups.
        def slices(groups)
          slices = [[]]
          groups.flat_map { |group| group.each_slice(BATCH).to_a }.each do |group|
            slices << [] if slices.last.sum(&:size) + group.size > @batch
            slices.last << group
          end
          slices.reject(&:empty?)
        end

        def execute(groups)
          commands = groups.flatten.map do |step|
            { step.name => step.fields, :command_id => step.command_id }
          end
          answer = @client.execute(commands, actor: ACTOR, correlation_id: "aethyr-migration",
                                             deadline: DEADLINE)
          @stored += answer.results.reject(&:already_executed).sum { |result| result.events.size }
        rescue AethyrError => e
          raise unless about_an_object?(e)
          return refused(groups.first, e) if groups.size == 1

          groups.each_slice((groups.size / 2.0).ceil) { |half| execute(half) }
        end

        def about_an_object?(error)
          ABOUT_AN_OBJECT.any? { |type| error.is_a?(type) } || error.reason == "OBJECT_FULL" ||
            %w[ALREADY_EXISTS OUT_OF_RANGE].include?(error.code)
        end

        def refused(group, error)
          return without_password(group) if password?(group, error)

          step = group.first
          @losses << Loss.new(step.id, step.type, "#{step.name}: #{error.message}")
        end

        # The service says which hashes it takes.
        def password?(group, error)
          group.any? { |step| step.fields.key?(:password_hash) } && error.is_a?(InvalidArgument) &&
            error.violations.any? { |violation| violation.field.include?("password_hash") }
        end

        def without_password(group)
          @losses << Loss.new(group.first.id, group.first.type,
                              "its password: what is stored is no hash that the service takes")
          rest = group.reject { |step| step.name == :update_player_password }.map do |step|
            Step.new(**step.to_h, fields: step.fields.except(:password_hash))
          end
          execute([rest]) unless rest.empty?
        end
      end
    end
  end
end
