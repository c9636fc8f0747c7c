# frozen_string_literal: true

# Owns the operations of the cases: what each of them calls of the client, and the form of its answer.
module Conformance
  module Operations
    NAMES = %w[append append_many load load_many fold_count update save_snapshot load_snapshot
               list_aggregates read_all subscribe received unsubscribe execute execute_many get_game_object
               get_room get_player find_player list_game_objects list_contents get_history stats control join
               close connect].freeze
    COUNT = ->(state, _event) { { "count" => state["count"] + 1 } }

    def do_append(arguments, client, deadline)
      events = arguments["events"] * arguments.fetch("times", 1)
      plain(client.append(events.map { |each| event(each) }, expect: arguments.fetch("expect", "any"),
                          deadline: deadline))
    end

    def do_append_many(arguments, client, deadline)
      events = (arguments["events"] * arguments.fetch("times", 1)).map { |each| event(each) }
      options = symbols(arguments, "events", "times")
      { "calls" => plain(client.append_many(events, **options, deadline: deadline)) }
    end

    def do_load(arguments, client, deadline)
      loaded(client.load(arguments["id"], **symbols(arguments, "id"), deadline: deadline))
    end

    def do_load_many(arguments, client, deadline)
      found = client.load_many(arguments["ids"], **symbols(arguments, "ids"), deadline: deadline)
      { "aggregates" => found.map { |each| loaded(each) } }
    end

    def do_fold_count(arguments, client, deadline)
      state, sequence = client.fold(arguments["id"], { "count" => 0 },
                                    schema_version: arguments["schema_version"],
                                                                       deadline: deadline, &COUNT)
      { "state" => state, "sequence" => sequence }
    end

    def do_update(arguments, client, deadline)
      decisions = 0
      version = arguments["snapshot_version"]
      options = { initial: { "count" => 0 }, apply: COUNT, type: arguments["aggregate_type"],
                  deadline: deadline }
      options.update(schema_version: version, snapshot: ->(state) { state }) if version
      answer = client.update(arguments["id"], **options) do
        decisions += 1
        race(arguments["race"]) if decisions == 1 && arguments["race"]
        arguments["events"].map { |each| event(each) }
      end
      (answer ? plain(answer) : {}).merge("decisions" => decisions)
    end

    def do_save_snapshot(arguments, client, deadline)
      data = arguments["data"]
      data = [data["binary"]].pack("H*") if data.is_a?(Hash) && data.keys == ["binary"]
      plain(client.save_snapshot(arguments["id"], arguments["sequence"], data,
                                 schema_version: arguments["schema_version"] || 0, deadline: deadline))
    end

    def do_load_snapshot(arguments, client, deadline)
      found = client.load_snapshot!(arguments["id"], deadline: deadline)
      { "snapshot" => plain(found), "aggregate_type" => found.aggregate_type }
    end

    def do_list_aggregates(arguments, client, deadline)
      { "aggregates" => plain(client.list_aggregates(**symbols(arguments), deadline: deadline).to_a) }
    end

    def do_read_all(arguments, client, deadline)
      options = symbols(arguments, "filter")
      { "events" => plain(client.read_all(**options, filter: filter(arguments["filter"]),
                                          deadline: deadline).to_a) }
    end

    def do_subscribe(arguments, client, _deadline)
      name = arguments["name"]
      if (place = arguments["checkpoint"])
        @checkpoints.save(name, Aethyr::EventStore::V1::Checkpoint.new(
                                  position: place["position"],
                                    chain_hash: [place["chain_hash"].to_s].pack("H*")
                                ))
      end
      subscription = client.subscribe(name, @checkpoints, filter: filter(arguments["filter"]))
      before = @subscriptions[name]
      @subscriptions[name] = Running.new(subscription, before ? before.events : [])
      {}
    end

    def do_received(arguments, _client, deadline)
      running = @subscriptions.fetch(arguments["name"])
      running.wait(arguments["count"], deadline || 20)
      sleep(arguments["settle_ms"] / 1000.0) if arguments["settle_ms"]
      { "events" => plain(running.events.dup) }
    end

    def do_unsubscribe(arguments, _client, _deadline)
      @subscriptions.fetch(arguments["name"]).close
      {}
    end

    def do_execute(arguments, client, deadline)
      commands = arguments["commands"].map { |each| each.transform_keys(&:to_sym) }
      plain(client.execute(commands, actor: arguments["actor"], deadline: deadline,
                                     expected_sequences: arguments["expected_sequences"]))
    end

    def do_execute_many(arguments, client, deadline)
      commands = arguments["commands"] * arguments.fetch("times", 1)
      commands = commands.map { |each| each.transform_keys(&:to_sym) }
      options = symbols(arguments, "commands", "times")
      { "calls" => plain(client.execute_many(commands, **options, deadline: deadline)) }
    end

    def do_get_game_object(arguments, client, deadline)
      { "game_object" => plain(client.get_game_object(arguments["id"], deadline: deadline)) }
    end

    def do_get_room(arguments, client, deadline)
      { "room" => plain(client.get_room(arguments["id"], deadline: deadline)) }
    end

    def do_get_player(arguments, client, deadline)
      { "player" => plain(client.get_player(arguments["id"], deadline: deadline)) }
    end

    def do_find_player(arguments, client, deadline)
      { "players" => plain(client.find_player(arguments["name"], deadline: deadline)) }
    end

    def do_list_game_objects(arguments, client, deadline)
      { "game_objects" => plain(client.list_game_objects(**symbols(arguments), deadline: deadline).to_a) }
    end

    def do_list_contents(arguments, client, deadline)
      found = client.list_contents(arguments["container_id"], **symbols(arguments, "container_id"),
                                   deadline: deadline)
      { "game_objects" => plain(found.to_a) }
    end

    def do_get_history(arguments, client, deadline)
      { "entries" => plain(client.get_history(arguments["id"], **symbols(arguments, "id"),
                                              deadline: deadline)) }
    end

    def do_stats(_arguments, client, deadline) = plain(client.stats(deadline: deadline))

    def do_control(command, _client, _deadline)
      @control.ask(command)
    end

    def do_join(name, _client, _deadline) = @background.fetch(name).value

    def do_close(_arguments, client, _deadline)
      client.close
      {}
    end

    def do_connect(text, _client, _deadline)
      made = Aethyr::EventStore::Client.new(text)
      { "text" => made.options.to_s, "hosts" => made.options.hosts, "tls" => made.options.tls?,
        "deadline_ms" => (made.options.deadline * 1000).round, "client" => made }
    end

    # A subscription that runs in a thread, and what it has received in this case.
    class Running
      attr_reader :events

      def initialize(subscription, events)
        @subscription = subscription
        @events = events
        @thread = Thread.new { subscription.each { |event| @events << event } }
        @thread.report_on_exception = false
      end

      def wait(count, seconds)
        over = Process.clock_gettime(Process::CLOCK_MONOTONIC) + seconds
        until @events.size >= count
          @thread.value unless @thread.alive?
          if Process.clock_gettime(Process::CLOCK_MONOTONIC) > over
            raise StepFailed, "#{@events.size} events instead of #{count}"
          end

          sleep 0.02
        end
      end

      def close
        @subscription.close
        @thread.join(20)
      rescue Aethyr::EventStore::AethyrError
        nil
      end
    end

    private

    def event(fields)
      found = symbols(fields)
      bytes = found[:data].is_a?(Hash) && found[:data].keys == ["binary"]
      found[:data] = [found[:data]["binary"]].pack("H*") if bytes
      found[:occurred_at] = Time.iso8601(found[:occurred_at]) if found[:occurred_at].is_a?(String)
      found
    end

    def race(events)
      other = Aethyr::EventStore::Client.new("aethyr://#{@answers["address"]}")
      other.append(events.map { |each| event(each) }, expect: :any)
    ensure
      other&.close
    end

    def filter(fields)
      fields&.to_h { |key, value| [key, key.start_with?("recorded_") ? Time.iso8601(value) : value] }
    end

    def loaded(found)
      { "aggregate_id" => found.aggregate_id, "aggregate_type" => found.aggregate_type,
        "last_sequence" => found.last_sequence, "snapshot" => plain(found.snapshot),
        "events" => plain(found.events) }
    end

    def symbols(arguments, *without)
      arguments.reject { |key, _| without.include?(key) }.transform_keys(&:to_sym)
    end
  end
end
