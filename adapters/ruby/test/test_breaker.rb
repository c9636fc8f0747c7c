# frozen_string_literal: true

# Owns the tests of the breaker, of what is kept in an outage, and of what a fork does.
require "delegate"
require_relative "support/service"
require_relative "support/world"

class TestBreaker < Minitest::Test
  include Shared

  def setup
    super
    Sequent.configuration.event_publisher = Object.new.tap { |each| def each.publish_events(_events) = nil }
  end

  # True if the breaker is open after this error.
  def opened_by(error)
    breaker = ES::Breaker.new(limit: 0.5, again: 60)
    assert_raises(error.class) { breaker.call { raise error } }
    breaker.open?
  end

  def late(cause = nil, **details)
    raise ES::DeadlineExceeded.new("late", code: "DEADLINE_EXCEEDED", **details), cause: cause
  rescue ES::DeadlineExceeded => e
    e
  end

  def test_only_a_service_that_is_gone_opens_it
    assert opened_by(ES::Unavailable.new("gone"))
    assert opened_by(late)
    assert opened_by(late(ES::Unavailable.new("gone")))
    refute opened_by(late(ES::ResourceExhausted.new("slower", retry_after: 1)))
    refute opened_by(late(answered: true))
    refute opened_by(ES::NotFound.new("no"))
  end

  def test_each_answer_closes_it
    [ES::NotFound, ES::WrongExpectedSequence, ES::NotAllowed, ES::ResourceExhausted].each do |answer|
      breaker = ES::Breaker.new(limit: 0.5, again: 0)
      assert_raises(ES::Unavailable) { breaker.call { raise ES::Unavailable, "gone" } }
      assert_raises(answer) { breaker.call { raise answer, "an answer" } }
      refute_predicate breaker, :open?
    end
  end

  # A client whose appends take their time, or find nobody.
  class Slow < SimpleDelegator
    attr_accessor :gone, :seconds, :sent

    def append_request(request, deadline: nil)
      raise Aethyr::EventStore::Unavailable, "gone" if gone

      sleep(seconds.to_f)
      (@sent ||= []) << request.events.first.aggregate_id
      __getobj__.append_request(request, deadline: 5)
    end
  end

  def kept(number, limit)
    slow = Slow.new(client).tap { |each| each.gone = true }
    store = ES::SequentEventStore.new(client: slow, limit: limit, again: 0, on_unavailable: :log,
                                      logger: ->(line) { (@lines ||= []) << line })
    prefix = id
    ids = (1..number).map { |n| "#{prefix}-#{n}" }
    ids.each { |each| create(store, each) }
    slow.gone = false
    [store, slow, ids]
  end

  def create(store, name)
    opened = Bank::Opened.new(aggregate_id: name, sequence_number: 1, owner: nil)
    stream = Sequent::Core::EventStream.new(aggregate_type: "Quest", aggregate_id: name)
    store.commit_events(Bank::Open.new(aggregate_id: name), [[stream, [opened]]])
  end

  def test_what_is_kept_is_sent_in_its_order_and_no_call_waits_for_all_of_it
    store, slow, ids = kept(12, 0.3)
    slow.seconds = 0.1
    more = id
    sent = [0]
    create(store, more)
    until store.metrics[:events_stored] == 13
      sent << slow.sent.size
      begin
        store.stream_exists?(more)
      rescue ES::AethyrError
        nil
      end
    end
    # In 0.3 s.
    assert_operator sent.each_cons(2).map { |before, after| after - before }.max, :<=, 4
    assert_equal ids + [more], slow.sent
    assert_equal [13, 0, 0], store.metrics.values_at(:events_stored, :store_failures, :events_lost)
  end

  def test_what_is_kept_and_refused_later_is_counted_as_lost
    store, slow, ids = kept(2, 5)
    client.append({ aggregate_id: ids.first, type: "Quest", event_type: "Other" }, expect: :new)
    assert store.stream_exists?(ids.last)
    assert_equal [1, 1, 0], store.metrics.values_at(:events_stored, :events_lost, :store_failures)
    assert_equal 1, @lines.grep(/kept events were not stored/).size
    assert_equal 2, slow.sent.size
  end

  # `:log` keeps appends. A command that loads something first does not get as far.
  def test_what_loads_first_is_not_kept
    own = ES::TestService.new.start
    store = ES::SequentEventStore.new(own.url, limit: 0.3, again: 60, on_unavailable: :log, logger: ->(_) {})
    create(store, "one")
    own.stop("KILL")
    create(store, "two")
    error = assert_raises(ES::AethyrError) { store.load_events("one") }
    assert_kind_of ES::ServiceGone, error
    assert_equal 1, store.instance_variable_get(:@kept).size
  ensure
    own&.close
  end

  def test_a_fork_is_named
    client.stats
    read, write = IO.pipe
    child = fork do
      read.close
      error = [-> { client.stats }, -> { ES::Client.new(service.url).stats },
               -> { client.read_all(limit: 1).to_a }].map do |call|
        call.call
        "none"
      rescue StandardError => e
        "#{e.class} #{e.message[/before this process was forked/]}"
      end
      write.write(error.join(","))
    ensure
      exit!(0)
    end
    write.close
    Process.wait(child)
    assert_equal (["Aethyr::EventStore::AethyrError before this process was forked"] * 3).join(","), read.read
  end
end
