# frozen_string_literal: true

# Owns a tiny game: a quest that two players change at the same time, a room and a player of the world, and a
# list of what happened that is made by a subscription. `ruby -Ilib examples/quest.rb
# aethyr://127.0.0.1:50051`
require "aethyr/event_store"

# A quest, folded from its events.
Quest = Struct.new(:name, :finders) do
  def self.begin = new(nil, [])

  def self.apply(quest, event)
    case event.event_type
    when "QuestBegun" then new(event.data["name"], quest.finders)
    when "SwordFound" then new(quest.name, [*quest.finders, event.data["by"]])
    else quest
    end
  end
end

# The rules: a sword is found once by each player, and by three players at most.
class Game
  attr_reader :news

  def initialize(address)
    @address = address
    @client = Aethyr::EventStore::Client.new(address)
    @run = SecureRandom.hex(4)
    @news = Queue.new
  end

  def quest = "quest-#{@run}"
  def hall = "hall-#{@run}"

  def build
    @client.execute([{ create_room: { id: hall, name: "Hall", description: "It is cold." } },
                     { create_player: { id: "alice-#{@run}", name: "Alice" } },
                     { update_game_object_container: { id: "alice-#{@run}", container_id: hall } }],
                     actor: "builder")
    @client.append({ aggregate_id: quest, type: "Quest", event_type: "QuestBegun",
                     data: { name: "The Lost Sword" } },
                   expect: :new)
  end

  # Decides against the newest state; a conflict is decided again.
  def find_sword(player)
    @client.update(quest, initial: Quest.begin, apply: Quest.method(:apply),
                   type: "Quest") do |state, _sequence|
      next [] if state.finders.size >= 3 || state.finders.include?(player)

      { event_type: "SwordFound", data: { by: player } }
    end
  end

  def listen
    subscription = @client.subscribe("news", filter: { aggregate_id_prefix: quest })
    @listener = Thread.new do
      subscription.each { |event| @news << "#{event.event_type} #{event.data.values.first}" }
    end
    subscription
  end

  def play
    build
    subscription = listen
    threads = %w[Alice Bob Carol Dave].map { |player| Thread.new { find_sword(player) } }
    threads.each(&:join)
    state, sequence = @client.fold(quest, Quest.begin) { |quest, event| Quest.apply(quest, event) }
    found = Array.new(4) { @news.pop }
    subscription.close
    @listener.join
    { quest: state.name, finders: state.finders, sequence: sequence, news: found,
      hall: @client.get_room(hall).description,
      inside: @client.get_player("alice-#{@run}").object.container_id == hall }
  ensure
    @client.close
  end
end

puts JSON.generate(Game.new(ARGV.fetch(0, "aethyr://127.0.0.1:50051")).play) if $PROGRAM_NAME == __FILE__
