# frozen_string_literal: true

# Owns the tests of the event store for Sequent, on a stand-in of Sequent's classes (or the real ones:
# SEQUENT_REAL).
require "delegate"
require_relative "support/service"
require_relative "support/world"

class TestSequentStore < Minitest::Test
  include Shared

  Locked = Sequent::Core::EventStore::OptimisticLockingError

  class Publisher
    attr_reader :events

    def publish_events(events) = (@events ||= []).concat(events)
  end

  def setup
    @store = ES::SequentEventStore.new(service.url, limit: 5)
    @publisher = Publisher.new
    Sequent.configure do |config|
      config.event_store = @store
      config.transaction_provider = ES::OneAppend.new
      config.command_handlers = [Bank::Handler.new]
      config.event_handlers = []
      config.event_publisher = @publisher
      config.logger = Object.new.tap { |logger| def logger.debug? = false; def logger.debug(*) = nil }
    end
    repository.clear
  end

  def repository = Sequent.aggregate_repository

  def account(name = id("account"), owner: name)
    Sequent.command_service.execute_commands(Bank::Open.new(aggregate_id: name, owner: owner))
    name
  end

  def loaded(name)
    repository.clear
    repository.load_aggregate(name, Bank::Account)
  ensure
    repository.clear
  end

  def committed(*aggregates)
    streams = aggregates.map { |each| [each.event_stream, each.uncommitted_events] }
    @store.commit_events(Bank::Pay.new(aggregate_id: "x", user_id: "bob"), streams)
    aggregates.each(&:clear_events)
  end

  def test_commit_and_load
    name = account
    one = loaded(name)
    one.pay(5, { "set" => Set[:a], 1 => "pair" })
    one.pay(7, "\xff".b)
    committed(one)
    two = loaded(name)
    assert_equal [12, [{ "set" => Set[:a], 1 => "pair" }, "\xff".b]], [two.balance, two.notes]
    assert_equal 4, two.sequence_number
    records = client.load(name).events
    assert_equal [{ "command" => "Bank::Pay", "actor" => "bob" }, "Bank::Account", "Bank::Paid"],
                 [records.last.metadata, records.last.aggregate_type, records.last.event_type]
    assert_in_delta Time.now.to_f, records.last.occurred_at.to_f, 5
    stream, events = @store.load_events(name)
    assert_equal ["Bank::Account", 3], [stream.aggregate_type, events.size]
    assert_nil @store.load_events(id)
    assert_equal [], @store.load_events_for_aggregates([])
  end

  def test_one_execute_commands_is_one_append
    one, two = account, account
    before = client.stats.last_position
    Sequent.command_service.execute_commands(Bank::Pay.new(aggregate_id: one, amount: 1),
                                             Bank::Pay.new(aggregate_id: two, amount: 2),
                                             Bank::Pay.new(aggregate_id: one, amount: 3))
    assert_equal [4, 2], [loaded(one).balance, loaded(two).balance]
    assert_equal before + 3, client.stats.last_position
    assert_raises(StandardError) do
      Sequent.command_service.execute_commands(Bank::Pay.new(aggregate_id: one, amount: 1),
                                               Bank::Pay.new(aggregate_id: id, amount: 2))
    end
    assert_equal [4, before + 3], [loaded(one).balance, client.stats.last_position]
  end

  def test_events_are_published_after_they_are_stored
    name = account
    assert_equal [name], @publisher.events.map(&:aggregate_id).uniq
    @publisher.events.clear
    stale = loaded(name)
    client.append({ aggregate_id: name, event_type: "Bank::Paid", data: { amount: 1 } }, expect: :any)
    stale.pay(1)
    assert_raises(Locked) { committed(stale) }
    assert_empty @publisher.events
    assert_equal 1, loaded(name).balance
  end

  def test_too_many_events_are_refused_before_they_are_sent
    name = account
    one = loaded(name)
    501.times { one.pay(1) }
    assert_raises(ES::TooManyEvents) { committed(one) }
    assert_equal 0, loaded(name).balance
  end

  def test_unique_keys
    name = id("owner")
    first = account(owner: name)
    error = assert_raises(Sequent::Core::AggregateKeyNotUniqueError) do
      account("second-#{name}", owner: name)
    end
    assert_includes error.message, "second-#{name}"
    assert_equal first, @store.find_aggregate_id_by_unique_key(:owner, { owner: name })
    one = loaded(first)
    one.rename("#{name}-2")
    committed(one)
    assert_nil @store.find_aggregate_id_by_unique_key(:owner, { owner: name })
    second = account(owner: name)
    assert_equal second, @store.find_aggregate_id_by_unique_key(:owner, { owner: name })
    back = loaded(first)
    back.rename(name)
    assert_raises(Sequent::Core::AggregateKeyNotUniqueError) { committed(back) }
    assert_equal "#{name}-2", loaded(first).owner
    ids = @store.event_streams_enumerator(group_size: 1000).to_a.flatten
    assert_empty ids.grep(/\Aunique-key/)
  end

  def test_unique_keys_in_one_transaction
    name = id("owner")
    open = ->(each, owner) { Bank::Open.new(aggregate_id: each, owner: owner) }
    assert_raises(Sequent::Core::AggregateKeyNotUniqueError) do
      Sequent.command_service.execute_commands(open.call("#{name}-1", name), open.call("#{name}-2", name))
    end
    refute client.load("#{name}-1").exist?
    Sequent.command_service.execute_commands(open.call("#{name}-1", name),
                                             open.call("#{name}-2", "#{name} two"))
    assert_equal "#{name}-2", @store.find_aggregate_id_by_unique_key(:owner, { owner: "#{name} two" })
  end

  def test_unique_keys_in_a_race
    name = id("owner")
    threads = (1..6).map do |n|
      Thread.new do
        store = ES::SequentEventStore.new(service.url, limit: 5)
        account = Bank::Account.new("#{name}-#{n}", name)
        streams = [[account.event_stream, account.uncommitted_events]]
        command = Bank::Open.new(aggregate_id: account.id, owner: name)
        ES::OneAppend.new(store).transaction { store.commit_events(command, streams) }
        :stored
      rescue Sequent::Core::AggregateKeyNotUniqueError
        :taken
      end
    end
    assert_equal({ stored: 1, taken: 5 }, threads.map(&:value).tally)
  end

  def test_snapshots
    name = account
    one = loaded(name)
    6.times { one.pay(1) }
    committed(one)
    due = @store.select_aggregates_for_snapshotting(limit: 1000)
    assert_includes due.map { |each| each.respond_to?(:aggregate_id) ? each.aggregate_id : each }, name
    @store.store_snapshots([loaded(name).take_snapshot])
    assert_equal 7, client.load_snapshot(name).sequence_number
    two = loaded(name)
    two.pay(10)
    committed(two)
    _, events = @store.load_events(name)
    assert_equal [Sequent::Core::SnapshotEvent, Bank::Paid], events.map(&:class)
    assert_equal [16, 9], [loaded(name).balance, loaded(name).sequence_number]
    assert_kind_of Sequent::Core::SnapshotEvent, @store.load_latest_snapshot(name)
    assert_raises(ES::NotSupported) { @store.delete_all_snapshots }
  end

  def test_reads
    name = account
    mark = @store.position_mark
    3.times { |n| Sequent.command_service.execute_commands(Bank::Pay.new(aggregate_id: name, amount: n)) }
    events, newer = @store.load_events_since_marked_position(mark)
    assert_equal [[0, 1, 2], mark + 3], [events.map(&:amount), newer]
    assert_equal [[], newer], @store.load_events_since_marked_position(newer)
    assert @store.stream_exists?(name) && @store.events_exists?(name)
    refute @store.stream_exists?(id)
    assert_equal "Bank::Account", @store.find_event_stream(name).aggregate_type
    assert_nil @store.find_event_stream(id)
    assert_equal 1, @store.load_event(name, 3).amount
    assert_nil @store.load_event(name, 9)
    streamed = []
    @store.stream_events_for_aggregate(name) do |stream, event|
      streamed << [stream.aggregate_id, event.class]
    end
    assert_equal [[name, Bank::Opened]] + ([[name, Bank::Paid]] * 3), streamed
    assert_raises(ArgumentError) { @store.stream_events_for_aggregate(id) { nil } }
    assert_includes @store.event_streams_enumerator(aggregate_type: "Bank::Account",
                                                    group_size: 2).to_a.flatten, name
    replayed = []
    publisher = Object.new.tap do |each|
      each.define_singleton_method(:publish_events) { |list| replayed.concat(list) }
    end
    @store.replay_all_events(after: mark, filter: { aggregate_id_prefix: name }, publisher: publisher)
    assert_equal [0, 1, 2], replayed.map(&:amount)
    %i[permanently_delete_event_stream replay_events].each do |call|
      assert_raises(ES::NotSupported) { @store.send(call, 1) }
    end
    ["NoSuch::Class", "Integer", "RUBY_VERSION", "a step"].each do |type|
      other = id
      client.append({ aggregate_id: other, type: "Quest", event_type: type }, expect: :any)
      assert_raises(Sequent::Core::EventStore::DeserializeEventError) { @store.load_events(other) }
    end
  end

  def test_a_transaction_sees_its_own_streams_and_runs_what_comes_after
    name = id
    done = []
    provider = ES::OneAppend.new(@store)
    provider.transaction do
      account = Bank::Account.new(name, name)
      committed(account)
      assert @store.stream_exists?(name)
      refute client.load(name).exist?
      provider.after_commit { done << client.load(name).exist? }
    end
    assert_equal [true], done
    provider.after_commit { done << :at_once }
    assert_equal [true, :at_once], done
  end

  def test_a_handler_that_fails_hinders_no_other
    one, two = id, id
    done = []
    failing = Object.new.tap do |each|
      each.define_singleton_method(:publish_events) do |events|
        done << events.first.aggregate_id
        raise "first" if done.size == 1

        raise "second"
      end
    end
    Sequent.configuration.event_publisher = failing
    error = assert_raises(RuntimeError) do
      ES::OneAppend.new(@store).transaction do
        committed(Bank::Account.new(one, one))
        committed(Bank::Account.new(two, two))
        ES::OneAppend.new(@store).after_commit { done << :after }
      end
    end
    assert_equal ["first", [one, two, :after]], [error.message, done]
    assert client.load(two).exist?
  end

  def test_text_that_is_not_utf8_is_stored
    name = id
    account = Bank::Account.new(name, "owner")
    account.pay(1, ["\xE9", "é".b, { "\xE9".b => 1 }])
    account.apply_names(["caf\xE9", "é".b])
    streams = [[account.event_stream, account.uncommitted_events]]
    @store.commit_events(Bank::Pay.new(aggregate_id: "x", user_id: "Ren\xE9".b), streams)
    assert_equal ["\xE9".b, "é", { "\xE9".b => 1 }], loaded(name).notes.first
    last = client.load(name).events.last
    assert_equal [%w[café é], "René"], [last.data["names"], last.metadata["actor"]]
  end

  def test_a_stream_answers_like_the_hash_of_aethyr
    name = account
    other = ES::TestService.new.start
    ES::SequentEventStore.new(other.url)
    stream = @store.find_event_stream(name)
    assert_equal [name, 1, nil], [stream[:aggregate_id], stream[:events].size, stream[:snapshot_event]]
  ensure
    other&.close
  end

  def test_unique_keys_of_texts_and_symbols_are_the_same_in_any_order
    keys = ES::UniqueKeys.new
    assert_equal keys.text({ b: :x, "a" => 1 }), keys.text({ "a" => 1, "b" => "x" })
    name = account
    assert_equal name, @store.find_aggregate_id_by_unique_key(:owner, { "owner" => name })
  end

  def test_a_snapshot_that_was_not_signed_is_not_read
    key = "a secret"
    signing = ES::SequentEventStore.new(service.url, limit: 5, snapshot_key: key)
    name = account
    one = loaded(name)
    one.pay(1)
    committed(one)
    signing.store_snapshots([loaded(name).take_snapshot])
    assert_equal Sequent::Core::SnapshotEvent, signing.load_events(name)[1].first.class
    forged = client.load_snapshot(name).data.merge("data" => Base64.encode64(Marshal.dump("run this")))
    [forged, forged.except("signature")].each do |data|
      client.save_snapshot(name, 2, data, schema_version: 1)
      assert_equal [Bank::Opened, Bank::Paid], signing.load_events(name)[1].map(&:class)
      assert_nil signing.load_latest_snapshot(name)
    end
  end

  def test_the_breaker
    other = ES::TestService.new.start
    store = ES::SequentEventStore.new(other.url, limit: 0.5, again: 1)
    refute_predicate store.breaker, :open?
    account = Bank::Account.new(id, "x")
    store.commit_events(Bank::Open.new(aggregate_id: account.id),
                        [[account.event_stream, account.uncommitted_events]])
    other.stop("KILL")
    first = seconds { assert_raises(ES::AethyrError) { store.load_events(account.id) } }
    assert_operator first, :<, 0.7
    assert_predicate store.breaker, :open?
    quick = seconds { 10.times { assert_raises(ES::ServiceGone) { store.load_events(account.id) } } }
    assert_operator quick, :<, 0.1
    other.start
    loaded = nil
    20.times do
      loaded ||= store.load_events(account.id)
    rescue ES::ServiceGone
      sleep 0.1
    end
    assert_equal 1, loaded[1].size
  ensure
    other&.close
  end

  # The store of Aethyr, whose objects have many events.
  def aethyr_store(**options)
    ES::AethyrEventStore.new({ event_store_address: service.address, event_store_limit: 5,
                               logger: ->(line) { (@lines ||= []) << line } }.merge(options)).tap do |store|
      Sequent.configuration.event_store = store
    end
  end

  def snapshot_of(name)
    100.times do
      found = client.load_snapshot(name)
      return found if found

      sleep 0.05
    end
    flunk "no snapshot of #{name}: #{@lines}"
  end

  def test_an_object_with_many_events_gets_a_snapshot
    aethyr_store
    name = account
    6.times { |n| Sequent.command_service.execute_commands(Bank::Pay.new(aggregate_id: name, amount: n)) }
    assert_operator snapshot_of(name).sequence_number, :>=, 5
    assert_equal 15, loaded(name).balance
  end

  def test_an_object_that_cannot_have_a_snapshot_is_named_once
    name = account
    aethyr_store
    Bank::Account.define_method(:take_snapshot) { raise TypeError, "no _dump_data is defined for class Proc" }
    12.times do |n|
      Sequent.command_service.execute_commands(Bank::Pay.new(aggregate_id: name, amount: n))
      Sequent.configuration.event_store.instance_variable_get(:@taker)&.join
    end
    assert_equal 1, @lines.size
  ensure
    Bank::Account.remove_method(:take_snapshot)
  end

  def test_an_object_that_takes_long_to_load_gets_a_snapshot_and_stops_nothing
    name = account
    slow = SimpleDelegator.new(client)
    slow.define_singleton_method(:load_many) do |ids, deadline: nil, **more|
      raise ES::DeadlineExceeded.new("late", answered: true) if deadline

      super(ids, **more)
    end
    store = aethyr_store(event_store_client: slow)
    assert_raises(ES::DeadlineExceeded) { store.load_events_for_aggregates([name]) }
    refute_predicate store.breaker, :open?
    assert_equal 1, snapshot_of(name).sequence_number
  end

  def test_a_long_answer_that_is_late_says_that_it_had_begun
    name = id
    step = { aggregate_id: name, type: "Quest", event_type: "Step", data: { text: "x" * 300 } }
    30.times { |n| client.append((1..500).map { step.dup }, expect: n * 500) }
    request = ES::V1::LoadEventsRequest.new(aggregate_id: name)
    error = assert_raises(ES::DeadlineExceeded) do
      # The reader is slow.
      client.transport.stream(:store, :load_events, request, resume: -> { request }, deadline: 1) { sleep 1.2 }
    end
    assert error.answered
  end
end
