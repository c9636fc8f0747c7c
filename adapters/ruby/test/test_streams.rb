# frozen_string_literal: true

# Owns the tests of streams, deadlines, `close` and `update` against a service that does what a test says.
require_relative "support/fake"

class TestStreams < Minitest::Test
  include Fake

  def open(address, &block) = ES::Client.open("aethyr://#{address}", &block)
  def positions(address) = open(address) { |client| client.read_all.map(&:position) }

  def test_a_filter_that_matches_seldom
    fake, address = serve(read_all: lambda { |_, _, messages, _|
      10.times do
        sleep 0.1
        messages << page(9)
      end
      messages << page(9, 9)
    })
    assert_equal [9], positions("#{address}?attempt_deadline=500ms&deadline=800ms")
    assert_equal [:read_all], fake.calls
  end

  def test_a_message_that_does_not_come
    fake, address = serve(read_all: lambda { |number, request, messages, _|
      messages << page(2, [request.from_position, 1].max)
      never if number.zero?
    })
    assert_equal [1, 2], positions("#{address}?attempt_deadline=300ms")
    assert_equal 2, fake.calls.size
  end

  def test_a_slow_block_counts_for_no_deadline
    fake, address = serve(read_all: lambda { |_, _, messages, _|
      (1..3).each { |n| messages << page(3, n) }
    })
    open("#{address}?attempt_deadline=200ms&deadline=300ms") do |client|
      found = []
      client.read_all { |event| found << event.position.tap { sleep 0.4 } }
      assert_equal [1, 2, 3], found
    end
    assert_equal [:read_all], fake.calls
  end

  def test_a_read_ends_where_it_ended_at_its_begin
    _, address = serve(read_all: lambda { |number, _, messages, _|
      next messages << page(3, 2, 3) unless number.zero?

      messages << page(2, 1)
      raise GRPC::Unavailable, "broken"
    })
    assert_equal [1, 2], positions(address)
  end

  def test_a_load_backwards_ends_at_its_lower_end
    fake, address = serve(load_events: lambda { |_, _, messages, _|
      messages << V1::LoadEventsResponse.new(last_sequence: 6, events: recorded(6, 5))
      raise GRPC::Unavailable, "broken"
    })
    open(address) do |client|
      assert_equal [6, 5], client.load("a", from_sequence: 5, backwards: true).events.map(&:sequence_number)
    end
    assert_equal [:load_events], fake.calls
  end

  def test_a_subscription_goes_on_with_a_new_token
    tokens = []
    fake, address = serve(subscribe: lambda { |number, _, messages, metadata|
      tokens << metadata["authorization"]
      messages << (number == 1 ? batch(2) : caught_up) if number < 3
      raise GRPC::Unauthenticated, "the credential has changed"
    })
    Dir.mktmpdir do |dir|
      path = File.join(dir, "token")
      File.write(path, "one\n")
      open("#{address}?token_file=#{path}") do |client|
        seen = []
        assert_raises(ES::Unauthenticated) do
          client.subscribe("s") do |event|
            seen << event.position
            File.write(path, "two\n")
          end
        end
        assert_equal [2], seen
      end
    end
    # The last one was refused before a message.
    assert_equal 4, fake.calls.size
    assert_equal ["Bearer one", "Bearer one", "Bearer two", "Bearer two"], tokens
  end

  def test_a_stream_that_the_service_ends_is_begun_again
    _, address = serve(subscribe: lambda { |number, _, messages, _|
      messages << batch(number) if number.positive?
    })
    open(address) { |client| assert_equal [1, 2], client.subscribe("s").first(2).map(&:position) }
  end

  def test_a_subscription_can_be_read_again
    _, address = serve(subscribe: lambda { |_, request, messages, _|
      messages << batch(request.after ? request.after.position + 1 : 1)
      never
    })
    open(address) do |client|
      subscription = client.subscribe("s")
      # The event was not handled to its end.
      assert_equal [1, 1], Array.new(2) { subscription.first.position }
    end
  end

  def test_close_ends_calls_and_subscriptions
    begun = Queue.new
    stuck = ->(*) { begun << true and never }
    _, address = serve(append_events: stuck, load_events: stuck, read_all: stuck, subscribe: stuck)
    client = ES::Client.new("aethyr://#{address}?deadline=1m&attempt_deadline=1m")
    calls = [-> { client.append({ aggregate_id: "a", event_type: "E" }) }, -> { client.load("a") },
             -> { client.read_all.first }, -> { client.subscribe("s").to_a }]
    threads = calls.map { |call| Thread.new { call.call rescue $! } }
    calls.size.times { begun.pop }
    client.close
    errors = threads.map(&:value)
    assert_equal [], errors.pop
    (errors + calls.map { |call| assert_raises(ES::AethyrError, &call) }).each do |error|
      assert_equal %w[CANCELLED CLOSED], [error.code, error.reason]
    end
    client.close
  end

  def test_a_signal_handler_can_close
    _, address = serve(subscribe: lambda { |_, _, messages, _|
      messages << batch(1)
      never
    })
    open(address) do |client|
      subscription = client.subscribe("s")
      before = trap("USR2") { subscription.close }
      seen = subscription.map { |event| event.position.tap { Process.kill("USR2", Process.pid) } }
      assert_equal [1], seen
    ensure
      trap("USR2", before)
    end
  end

  def test_a_host_that_is_connected_and_does_not_answer_is_left
    silent, first = serve(stats: method(:never))
    _, second = serve(stats: ->(*) { V1::StatsResponse.new(version: "x") })
    open("#{first},#{second}?attempt_deadline=300ms") do |client|
      assert_equal %w[x x], Array.new(2) { client.stats.version }
    end
    assert_equal 1, silent.calls.size
  end

  def test_a_refusal_at_the_end_of_the_deadline_is_told
    _, address = serve(append_events: lambda { |number, *|
      raise GRPC::Unavailable, "later" if number.zero?

      raise GRPC::InvalidArgument, "no"
    })
    open(address) do |client|
      assert_raises(ES::InvalidArgument) { client.append({ aggregate_id: "a", event_type: "E" }) }
    end
  end

  # A transport that only notes how long it waits.
  class Waits
    attr_reader :waits

    def initialize = @waits = []
    def options = ES::Options.new
    def now = 0.0
    def closed? = false
    def pause(seconds) = @waits << seconds
    def rand = 0.5
  end

  def test_a_delay_of_nothing_is_no_hot_loop_and_one_without_end_is_cut
    waits = Waits.new
    endless = ES::Attempts.new(waits, Float::INFINITY)
    [0.0, 0.0, 1e12].each do |delay|
      endless.failed(ES::ResourceExhausted.new("slower", code: "RESOURCE_EXHAUSTED", retry_after: delay), 0)
    end
    assert_operator waits.waits[0], :>, 0
    assert_operator waits.waits[1], :<=, 0.1
    assert_equal 60, waits.waits[2]
    long = ES::ResourceExhausted.new("slower", code: "RESOURCE_EXHAUSTED", retry_after: 20)
    error = assert_raises(ES::DeadlineExceeded) { ES::Attempts.new(waits, 15, write: true).failed(long, 0) }
    # The attempt was not refused with a reason.
    assert error.outcome_unknown
  end

  def stored(sent)
    lambda do |_, request, *|
      sent << request.events.to_a
      due = V1::AppendedAggregate.new(aggregate_id: "a", snapshot_due: true)
      V1::AppendEventsResponse.new(event_ids: request.events.map(&:event_id), aggregates: [due])
    end
  end

  def test_update_makes_ids_of_its_own_and_no_snapshot_fails_it
    asked = []
    sent = []
    _, address = serve(append_events: stored(sent), load_events: lambda { |_, request, messages, _|
      asked << [request.from_snapshot, request.snapshot_schema_version]
      messages << V1::LoadEventsResponse.new
    })
    constant = { event_type: "E" }.freeze
    other = { event_type: "E", aggregate_id: "b" }
    open(address) do |client|
      # With -W0, nobody would be warned.
      before, $VERBOSE = $VERBOSE, false
      _, log = capture_io do
        2.times do
          client.update("a", type: "A", apply: ->(state, _) { state },
                             snapshot: ->(_) { raise KeyError, "secret" }) { [constant, other] }
        end
      end
      $VERBOSE = before
      assert_equal 2, log.scan("no snapshot of a: KeyError").size
      refute_includes log, "secret"
    end
    assert_equal [[true, 0]], asked.uniq
    assert_equal 4, sent.flatten.map(&:event_id).uniq.size
    assert_equal ["A", ""], sent.first.map(&:aggregate_type)
    assert_equal({ event_type: "E", aggregate_id: "b" }, other)
  end

  def test_longer_work_checks_and_names_all_before_the_first_call
    sent = []
    _, address = serve(append_events: stored(sent))
    events = (1..5).map { |n| { aggregate_id: "a", event_type: "E#{n}" } }
    events[1]["correlation_id"] = nil
    open(address) do |client|
      wrong = events.map(&:dup) + [{ aggregate_id: "a", kind: "E" }]
      assert_raises(ES::InvalidArgument) { client.append_many(wrong, correlation_id: "c", most: 2) }
      assert_raises(ES::InvalidArgument) { client.append_many(events, correlation_id: "c", most: 0) }
      assert_empty sent
      events[1].delete("correlation_id")
      events[2][:correlation_id] = "mine"
      assert_equal 3, client.append_many(events, correlation_id: "c", most: 2).size
      assert_equal [], client.append_many([], correlation_id: "c")
    end
    assert_equal [2, 2, 1], sent.map(&:size)
    assert_equal %w[c c mine c c], sent.flatten.map(&:correlation_id)
    assert_equal events.map { |each| each[:event_id] }, sent.flatten.map(&:event_id)
  end

  def test_many_ids_share_a_deadline
    _, address = serve(load_many_events: lambda { |_, request, messages, _|
      sleep 0.3
      request.aggregate_ids.each do |id|
        messages << V1::LoadManyEventsResponse.new(aggregate_id: id, last: true)
      end
    })
    open("#{address}?deadline=500ms") do |client|
      assert_equal 2, client.load_many(%w[a b]).size
      assert_raises(ES::DeadlineExceeded) { client.load_many((1..2001).map(&:to_s)) }
    end
  end
end
