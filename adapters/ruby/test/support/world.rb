# frozen_string_literal: true

# Owns a small stand-in of Aethyr's commands, events and aggregates, with the faults that Compat bridges, and
# of an ordinary game of Sequent.
require_relative "sequent"
require "aethyr/event_store/sequent_event_store"
require "aethyr/event_store/aethyr_event_store"

module Bank
  class Opened < Sequent::Event
    attrs owner: String
  end

  class Paid < Sequent::Event
    attrs amount: Integer, note: Object
  end

  class Renamed < Sequent::Event
    attrs owner: String
  end

  # A class of the game, with its own form in JSON.
  Names = Struct.new(:list) do
    def as_json(*) = list
    def self.deserialize_from_json(value) = new(value)
  end

  class Named < Sequent::Event
    attrs names: Names
  end

  class Account < Sequent::AggregateRoot
    attr_reader :owner, :balance, :notes

    unique_key :owner, :owner
    enable_snapshots(default_threshold: 5) if respond_to?(:enable_snapshots)

    def initialize(id, owner)
      super(id)
      apply Opened, owner: owner
    end

    def pay(amount, note = nil) = apply(Paid, amount: amount, note: note)
    def apply_names(names) = apply(Named, names: Names.new(names))
    def rename(owner) = apply(Renamed, owner: owner)

    on(Opened) { |event| @owner, @balance, @notes = event.owner, 0, [] }
    on(Paid) { |event| @balance += event.amount; @notes << event.note }
    on(Renamed) { |event| @owner = event.owner }
  end

  class Open < Sequent::Command
    attrs owner: String
  end

  class Pay < Sequent::Command
    attrs amount: Integer
  end

  class Handler < Sequent::CommandHandler
    on(Open) { |command| repository.add_aggregate(Account.new(command.aggregate_id, command.owner)) }
    on(Pay) { |command| do_with_aggregate(command, Account) { |account| account.pay(command.amount) } }
  end
end
