# frozen_string_literal: true

# Owns the tests of the client that the conformance suite does not have.
require_relative "support/service"

class TestClient < Minitest::Test
  include Shared

  def event(id, data = {}, **more)
    { aggregate_id: id, type: "Quest", event_type: "QuestStep", data: data, **more }
  end

  def test_nothing_is_put_into_object
    lib = File.expand_path("../lib", __dir__)
    code = 'before = Object.constants + Object.private_instance_methods; ' \
           'require "google/rpc/error_details_pb"; ' \
           'require "grpc"; require "json"; require "securerandom"; require "ipaddr"; require "uri"; ' \
           'require "google/protobuf/well_known_types"; ' \
           'before |= Object.constants + Object.private_instance_methods; require "aethyr/event_store"; ' \
           'puts (Object.constants + Object.private_instance_methods - before).join(",")'
    assert_equal "Aethyr", IO.popen([RbConfig.ruby, "-W0", "-I", lib, "-e", code], &:read).strip
  end

  def test_ids_are_kept_in_the_callers_events
    quest = id
    given = event(quest)
    first = client.append(given, expect: :new)
    assert_equal [given[:event_id]], first.event_ids.to_a
    again = client.append(given, expect: :new)
    assert again.already_stored
    frozen = event(quest).freeze
    assert client.append(frozen, expect: 1)
  end

  def test_data_of_all_kinds
    quest = id
    values = [nil, true, 1, 2.5, "ü", [1], { "a" => { "b" => nil } }]
    client.append(values.map { |value| event(quest, value) }, expect: :new)
    client.append([event(quest, "\xff\x00".b), event(quest).tap { |e| e.delete(:data) }], expect: values.size)
    assert_equal values + ["\xff\x00".b, nil], client.load(quest).events.map(&:data)
  end

  def test_wrong_arguments_are_typed_errors
    quest = id
    [-> { client.append(event(quest).merge(dta: 1)) }, -> { client.append(event(quest), expect: "old") },
     -> { client.append([event(quest), event(id)], expect: 1) }, -> { client.execute({ fly: {} }) },
     -> { client.execute("x") }, -> { client.append(event("")) }].each do |wrong|
      error = assert_raises(ES::InvalidArgument, &wrong)
      refute_empty error.violations
    end
  end

  def test_errors_have_fields
    quest = id
    client.append(event(quest), expect: :new)
    error = assert_raises(ES::WrongExpectedSequence) { client.append(event(quest), expect: 7) }
    assert_equal [quest, 7, 1, "ABORTED", "WRONG_EXPECTED_SEQUENCE", "aethyr.eventstore"],
                 [error.aggregate_id, error.expected, error.actual, error.code, error.reason, error.domain]
    assert_nil error.cause
    assert_nil client.load_snapshot(quest)
    assert_raises(ES::NotFound) { client.load_snapshot!(quest) }
  end

  def test_update_gives_up_after_ten_conflicts
    quest = id
    rounds = 0
    assert_raises(ES::WrongExpectedSequence) do
      client.update(quest, type: "Quest") do
        rounds += 1
        client.append(event(quest), expect: :any)
        event(quest)
      end
    end
    assert_equal 10, rounds
  end

  def test_enumerators
    prefix = id
    ids = (1..7).map { |n| "#{prefix}-#{n}" }
    ids.each { |each| client.append(event(each), expect: :new) }
    assert_equal ids, client.list_aggregates(prefix: prefix, page_size: 2).map(&:aggregate_id)
    first = client.read_all(filter: { aggregate_id_prefix: prefix }).first(3)
    assert_equal ids.first(3), first.map(&:aggregate_id)
    rest = client.read_all(after: first.last, filter: { aggregate_id_prefix: prefix }).map(&:aggregate_id)
    assert_equal ids.drop(3), rest
  end

  def test_subscription_with_files_and_break
    prefix = id
    Dir.mktmpdir do |dir|
      store = ES::FileCheckpoints.new(dir)
      (1..5).each { |n| client.append(event("#{prefix}-#{n}"), expect: :new) }
      seen = []
      client.subscribe("a/b", store, filter: { aggregate_id_prefix: prefix }) do |each|
        seen << each.aggregate_id
        break if seen.size == 2
      end
      # The second was not handled to its end when the loop was left.
      client.subscribe("a/b", store, filter: { aggregate_id_prefix: prefix }) do |each|
        seen << each.aggregate_id
        break if seen.size == 6
      end
      assert_equal [1, 2, 2, 3, 4, 5].map { |n| "#{prefix}-#{n}" }, seen
      assert_equal ["a%2fb.checkpoint"], Dir.children(dir)
    end
  end

  def test_deadline_without_a_service
    port = TCPServer.open("127.0.0.1", 0) { |server| server.addr[1] }
    gone = ES::Client.new("aethyr://127.0.0.1:#{port}", deadline: 0.4)
    error = nil
    took = seconds { error = assert_raises(ES::DeadlineExceeded) { gone.append(event(id), expect: :any) } }
    assert_operator took, :<, 0.6
    assert_kind_of ES::Unavailable, error.cause
    refute error.outcome_unknown
  ensure
    gone&.close
  end

  def test_tls_and_tokens
    Dir.mktmpdir do |dir|
      names = %w[game monitor].to_h { |role| [role, token(dir, role)] }
      File.write(File.join(dir, "access.yml"), "identities:\n#{names.values.map(&:last).join}", perm: 0o600)
      pem, key = certificate(dir)
      settings = { "AETHYR_ACCESS__FILE" => File.join(dir, "access.yml"),
                   "AETHYR_SERVER__TLS" => "{ certificate_file: #{pem}, key_file: #{key} }" }
      secure = ES::TestService.new(environment: settings, ca: pem).start
      quest = id
      ES::Client.open("#{secure.url}&token_file=#{dir}/game.token") do |game|
        game.append(event(quest), expect: :new)
        assert_equal "game", game.load(quest).events.first.recorded_by
      end
      ES::Client.open(secure.url.sub("//", "//#{names["monitor"].first}@")) do |monitor|
        assert_equal 1, monitor.stats.event_count
        error = assert_raises(ES::NotAllowed) { monitor.load(quest) }
        assert_equal "load", error.right
      end
      ES::Client.open(secure.url) { |nobody| assert_raises(ES::Unauthenticated) { nobody.load(quest) } }
    ensure
      secure&.close
    end
  end

  # The token, and its line for access.yml.
  def token(dir, role)
    out = IO.popen([ES::TestService.program, "token", "new", role, "--role", role], &:readlines)
    File.write(File.join(dir, "#{role}.token"), out.first, perm: 0o600)
    [out.first.strip, out.last]
  end

  def certificate(dir)
    files = %w[tls.pem tls.key].map { |name| File.join(dir, name) }
    system("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
           "-days", "2", "-subj", "/CN=localhost", "-addext", "basicConstraints=critical,CA:FALSE", "-addext",
           "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", files[0], "-keyout", files[1],
           err: File::NULL, exception: true)
    files
  end

  def test_world
    room, sword = id("room"), id("sword")
    answer = client.execute([{ create_room: { id: room, name: "Hall" } },
                             { create_game_object: { id: sword, type: "Sword", container_id: room,
                                                     name: "sword",
                                                     attributes: { damage: 3,
                                                                   tags: ["a", nil, { "b" => 1.5 }] } } },
                             { delete_game_object: { id: room, contents: "MOVE_TO_CONTAINER" } }],
                             actor: "bob")
    assert_equal 3, answer.results.size
    found = client.get_game_object(sword)
    assert_equal ["a", nil, { "b" => 1.5 }], ES::Codec.plain(found.attributes["tags"])
    assert_equal "", found.container_id
    assert_equal "bob", client.get_history(sword).first.actor
    assert_equal 1, client.get_game_object(sword, as_of: 1).sequence_number
    report = client.rebuild_world_state
    assert_operator report.aggregates, :>=, 2
  end

  def test_a_name_that_is_taken
    unique = ES::TestService.new(environment: { "AETHYR_WORLD__PLAYER_NAMES" => "{ unique: folded }" }).start
    ES::Client.open(unique.url) do |game|
      game.execute({ create_player: { id: "alice", name: "Alice" } })
      error = assert_raises(ES::NameTaken) { game.execute({ create_player: { id: "bob", name: "aLICE" } }) }
      assert_equal ["bob", "aLICE", "NAME_TAKEN", "ALREADY_EXISTS"],
                   [error.id, error.name, error.reason, error.code]
    end
  ensure
    unique&.close
  end

  def test_keys_of_a_command_may_be_texts
    room = id("room")
    command = { "create_room" => { "id" => room, "name" => "Hall" }, "command_id" => "c-#{room}",
                "actor" => "bob", "expected_sequence" => 0 }
    assert_equal "c-#{room}", client.execute(command).results.first.command_id
    assert_equal "bob", client.get_history(room).first.actor
    assert client.execute(command).results.first.already_executed
    assert_raises(ES::WrongExpectedSequence) do
      client.execute({ "expected_sequence" => 7,
                       "update_room_description" => { "id" => room, "description" => "x" } })
    end
  end

  def test_the_helper_for_tests_says_what_is_missing
    before = ENV["AETHYR_EVENT_STORE"]
    ENV["AETHYR_EVENT_STORE"] = "/nowhere"
    error = assert_raises(RuntimeError) { ES::TestService.program }
    assert_includes error.message, "cargo build"
  ensure
    ENV["AETHYR_EVENT_STORE"] = before
  end
end
