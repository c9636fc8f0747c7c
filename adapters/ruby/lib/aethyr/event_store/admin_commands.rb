# frozen_string_literal: true

# Owns the commands of the game for administrators: AHISTORY (what happened to a thing), ASTORE (statistics)
# and ADEEDS (who did what).
module Aethyr
  module EventStore
    # The texts of the commands. They need a store, and no game.
    class AdminTexts
      EVENTS = 20
      SEARCHED = 2000

      def initialize(store)
        @store = store
      end

      # The last events of a thing, with the changes that each made.
      def history(id, count = EVENTS)
        last = ask { |client, left| client.load(id, backwards: true, limit: 1, deadline: left) }.last_sequence
        return ["Nothing is recorded about #{id}."] if last.zero?

        entries = ask do |client, left|
          client.get_history(id, from_sequence: [last - count, 0].max + 1, deadline: left)
        end
        ["History of #{id}: #{last} events"] + entries.map { |entry| line(entry) }
      rescue NotFound
        ["Nothing is recorded about #{id}."]
      rescue AethyrError => e
        ["The event store does not answer: #{e.message}"]
      end

      def statistics
        found = @store.statistics
        return ["The event store does not answer: #{found[:error]}"] if found[:error]

        types = found[:event_types].sort_by { |_, number| -number }.first(10)
        ["State: #{found[:state]}, version #{found[:version]}",
         "Events: #{found[:event_count]}, aggregates: #{found[:aggregate_count]}, " \
         "snapshots: #{found[:snapshot_count]}, not in ImmuDB yet: #{found[:pending_events]}",
         "This game: #{found[:events_stored]} stored, #{found[:events_loaded]} loaded, " \
         "#{found[:store_failures]} + #{found[:load_failures]} failures, #{found[:kept_appends]} kept, " \
         "#{found[:events_lost]} lost"] +
          types.map { |name, number| format("%8d %s", number, name.split("::").last) }
      end

      # The newest events of an actor, or of all actors, among the last 2,000 of the store.
      def deeds(actor = nil, count = EVENTS)
        events = ask do |client, left|
          last = client.stats(deadline: left).last_position
          client.read_all(from_position: [last - SEARCHED, 0].max + 1, deadline: left)
                .select { |event| by?(event, actor) }
        end
        return ["Nothing by #{actor || "anybody"} among the last #{SEARCHED} events."] if events.empty?

        events.last(count).map do |event|
          "#{time(event.recorded_at)} #{event.metadata["actor"]}: #{event.event_type} #{event.aggregate_id}"
        end
      rescue AethyrError => e
        ["The event store does not answer: #{e.message}"]
      end

      private

      def ask
        return yield(@store.client, nil) if @store.breaker.nil?

        @store.breaker.call { |left| yield @store.client, left }
      end

      def by?(event, actor)
        name = event.metadata["actor"].to_s
        actor.nil? ? !name.empty? : name.casecmp?(actor)
      end

      def line(entry)
        changes = entry.changes.map do |change|
          next "password_hash: (changed)" if change.field == "password_hash"

          "#{change.field}: #{short(change.before)} -> #{short(change.after)}"
        end
        actor = entry.actor.empty? ? "" : " by #{entry.actor}"
        "#{entry.sequence_number}. #{time(Codec.time(entry.recorded_at))} #{entry.event_type}#{actor}  " \
          "#{changes.join("; ")}".rstrip
      end

      def short(value) = value.nil? ? "nothing" : JSON.generate(Codec.plain(value))[0, 60]
      def time(at) = at.getlocal.strftime("%Y-%m-%d %H:%M:%S")
    end

    module AdminCommands
      HELP = {
        "ahistory" => ["AHISTORY [OBJECT]", "AHISTORY [OBJECT] [COUNT]",
                       "Shows the last events of an object, and what each changed."],
        "astore" => ["ASTORE", nil, "Shows the state and the statistics of the event store."],
        "adeeds" => ["ADEEDS", "ADEEDS [PLAYER] [COUNT]",
                     "Shows who did what: the newest events of a player, or of all."]
      }.freeze

      module_function

      def register
        @handler ||= handler.tap { |each| ::Aethyr::Extend::HandlerRegistry.register_handler(each) }
      end

      # The answer to a line of input, or nil if it is another command.
      def answer(line, player, texts = AdminTexts.new(::Sequent.configuration.event_store))
        case line
        when /\Aastore\s*\z/i then texts.statistics
        when /\Aadeeds(?:\s+([^\s\d]\S*))?(?:\s+(\d+))?\s*\z/i
          texts.deeds(Regexp.last_match(1), (Regexp.last_match(2) || AdminTexts::EVENTS).to_i)
        when /\Aahistory\s+(\S.*?)(?:\s+(\d{1,3}))?\s*\z/i
          name, count = Regexp.last_match.captures
          texts.history(id_of(name, player), (count || AdminTexts::EVENTS).to_i)
        end
      end

      # The id of a thing by its name: in the hands of the player, in the room, in the world; or the text
      # itself.
      def id_of(name, player)
        return player.goid if name.casecmp?("me")
        return player.container if name.casecmp?("here")

        name = Markers.clean(name)
        found = $manager.find(name, player) || $manager.find(name, player.container) || $manager.find(name)
        found ? found.goid : name
      rescue StandardError
        name
      end

      def handler
        action = action_class
        Class.new(::Aethyr::Extend::AdminHandler) do
          define_singleton_method(:name) { "Aethyr::EventStore::AdminCommands::Handler" }
          define_singleton_method(:object_added) { |data| super(data, self) }

          define_method(:initialize) { |player| super(player, HELP.keys, help_entries: AdminCommands.help) }
          define_method(:player_input) do |data|
            super(data)
            line = data[:input].to_s
            $manager.submit_action(action.new(player,
                                              line: line)) if line.match?(/\A(astore|adeeds|ahistory)\b/i)
          end
        end
      end

      # The action of the game that answers a line.
      def action_class
        Class.new(::Aethyr::Extend::CommandAction) do
          define_method(:initialize) do |player, line:|
            super(player)
            @line = line
          end
          define_method(:action) do
            lines = AdminCommands.answer(@line, @player) ||
              ["AHISTORY [object] [count], ASTORE, ADEEDS [player] [count]"]
            @player.output(lines.join("\r\n"))
          end
        end
      end

      def help
        return [] unless defined?(::Aethyr::Core::Help::HelpEntry)

        HELP.map do |name, (first, second, text)|
          ::Aethyr::Core::Help::HelpEntry.new(name, content: text, syntax_formats: [first, second].compact,
                                                    see_also: nil, aliases: nil)
        end
      end
    end
  end
end
