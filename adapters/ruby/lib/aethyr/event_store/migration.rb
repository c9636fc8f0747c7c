# frozen_string_literal: true

# Owns the migration of a world from Aethyr's storage into the event store: read, plan, send, compare.
require "aethyr/event_store"
require "aethyr/event_store/markers"
require "aethyr/event_store/migration/source"
require "aethyr/event_store/migration/plan"
require "aethyr/event_store/migration/sender"
require "aethyr/event_store/migration/comparison"

module Aethyr
  module EventStore
    module Migration
      # What could not be carried over: about which object, and why.
      Loss = Struct.new(:id, :type, :what) do
        def to_s = "#{id} (#{type}): #{what}"
      end

      Result = Struct.new(:objects, :commands, :stored, :losses, :differences, keyword_init: true) do
        def complete? = losses.empty? && differences.to_a.empty?
      end

      # Migrates what `storage` (a StorageMachine) has. `dry_run`: sends nothing. `compare`: reads every
      # object back. The block gets texts about the progress.
      def self.run(storage, client, admin: nil, batch: 100, dry_run: false, compare: false, &progress)
        progress ||= ->(_text) {}
        source = Source.new(storage, admin: admin)
        things = source.things(&progress)
        plan = Plan.new(things)
        commands = plan.commands
        progress.call("#{things.size} objects, #{commands.size} commands")
        losses = source.losses + plan.losses
        return Result.new(objects: things.size, commands: commands.size, stored: 0, losses: losses) if dry_run

        sender = Sender.new(client, batch: batch)
        sender.send(plan.phases, &progress)
        differences = compare ? Comparison.new(client).differences(things, plan, &progress) : nil
        Result.new(objects: things.size, commands: commands.size, stored: sender.stored,
                   losses: losses + sender.losses, differences: differences)
      end
    end
  end
end
