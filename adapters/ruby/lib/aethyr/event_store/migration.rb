# frozen_string_literal: true

# Owns the migration of a world from Aethyr's storage into the event store: read both, plan what differs,
# send it, compare.
require "aethyr/event_store"
require "aethyr/event_store/markers"
require "aethyr/event_store/migration/source"
require "aethyr/event_store/migration/world"
require "aethyr/event_store/migration/layout"
require "aethyr/event_store/migration/plan"
require "aethyr/event_store/migration/sender"

module Aethyr
  module EventStore
    module Migration
      # What could not be carried over: about which object, and why.
      Loss = Struct.new(:id, :type, :what) do
        def to_s = "#{id} (#{type}): #{what}"
      end

      # Where an object is: `how` is :lies, :carried or :worn; `detail` the position or the slot.
      Place = Struct.new(:holder, :how, :detail) do
        def to_s = [how, ("as #{detail.inspect}" unless detail.nil?), "in #{holder}"].compact.join(" ")
        alias_method :inspect, :to_s
      end

      # An object as it is in the service, or as it is to be there. `kind` is :room, :player or :thing.
      State = Struct.new(:kind, :name, :attributes, :place, :description, :exits, :password, :admin,
                         keyword_init: true)

      Result = Struct.new(:objects, :commands, :stored, :losses, :differences, keyword_init: true) do
        def complete? = losses.empty? && differences.to_a.empty?
      end

      # Migrates what `storage` (a StorageMachine) has. `dry_run`: sends nothing. `compare`: reads every
      # object back. The block gets texts about the progress.
      def self.run(storage, client, admin: nil, batch: 100, dry_run: false, compare: false, &progress)
        progress ||= ->(_text) {}
        source = Source.new(storage, admin: admin)
        things = source.things(&progress)
        world = World.new(client, things, &progress)
        layout = Layout.new(things, world)
        plan = Plan.new(layout, world)
        commands = plan.commands
        progress.call("#{things.size} objects, #{commands.size} commands: #{summary(commands)}")
        result = Result.new(objects: things.size, commands: commands.size, stored: 0,
                            losses: source.losses + world.losses + layout.losses + plan.losses)
        return result if dry_run

        sender = Sender.new(client, batch: batch)
        sender.send(plan.phases, &progress)
        result.stored = sender.stored
        result.losses += sender.losses
        result.differences = layout.differences(World.new(client, things, &progress)) if compare
        result
      end

      def self.summary(commands)
        commands.map(&:name).tally.map { |name, number| "#{name} #{number}" }.join(", ")
      end
    end
  end
end
