# frozen_string_literal: true

# Owns the tests of the migration, over a stand-in of Aethyr's storage.
require "delegate"
require "open3"
require_relative "support/own_service"
require_relative "support/objects"
require "aethyr/event_store/migration"

class TestMigration < Minitest::Test
  include OwnService

  O = Aethyr::Core::Objects
  HASH = "5ebe2294ecd0e08f08eab7690d2a6ee6"

  # A hall and a cavern, an exit each way, a guard with a cap and a coat over it, a player with a bag, in
  # which a coin.
  def world(prefix)
    ids = %w[hall cavern north south guard cap coat alice bag coin lost].to_h do |name|
      [name.to_sym, "#{prefix}-#{name}"]
    end
    @storage = MemoryStorage.new
    @storage.store(O::Room.new(ids[:hall], name: "Hall", generic: "room", long_desc: "A hall ✓",
                               container: nil,
                                           inventory: Inventory.new([[ids[:north], nil], [ids[:guard], nil]]),
                                           info: Info.new(terrain: Info.new(type: :urban, indoors: true),
                                                          flags: {})))
    @storage.store(O::Cavern.new(ids[:cavern], name: "Cavern", long_desc: "",
                                 inventory: Inventory.new([[ids[:south], nil]], 9)))
    @storage.store(O::Exit.new(ids[:north], name: "", alt_names: %w[n north], generic: "exit",
                               exit_room: ids[:cavern], container: ids[:hall]))
    @storage.store(O::Exit.new(ids[:south], name: "south", alt_names: ["s"], generic: "exit",
                               exit_room: ids[:hall]))
    worn = Equipment.new({ head: [ids[:cap]], torso: [nil, ids[:coat]] },
                         [[ids[:cap], nil], [ids[:coat], nil]])
    @storage.store(O::Mobile.new(ids[:guard], name: "guard", generic: "guard", container: ids[:hall],
                                 equipment: worn,
                                              inventory: Inventory.new, seen: Set[:alice, "bob"],
                                              born: Time.at(1, 5, :nsec)))
    @storage.store(O::GameObject.new(ids[:cap], name: "cap", generic: "cap", big: 2**70, bytes: "\xff".b,
                                     layer: 0))
    @storage.store(O::GameObject.new(ids[:coat], name: "coat", generic: "coat", deep: nest(30),
                                     nan: Float::NAN, layer: 1))
    alice = O::Player.new(ids[:alice], name: "Alice", container: ids[:hall], admin: true,
                          inventory: Inventory.new([[ids[:bag], nil]]),
                                       info: Info.new(stats: Info.new(health: 7.5),
                                                      explored_rooms: Set[ids[:hall]]), player: "connection")
    @storage.player(alice, "alice", HASH)
    @storage.store(O::GameObject.new(ids[:bag], name: "bag", generic: "bag",
                                     inventory: Inventory.new([[ids[:coin], [1, 2]]])))
    @storage.store(O::GameObject.new(ids[:coin], name: "coin", generic: "coin", container: ids[:bag],
                                     quantity: 3))
    @storage.store(O::GameObject.new(ids[:lost], name: "lost", generic: "lost", container: "nowhere"))
    ids
  end

  def nest(depth) = depth.zero? ? "bottom" : [nest(depth - 1)]
  def migrate(**options) = ES::Migration.run(@storage, client, **options)

  def test_everything_is_carried_over
    ids = world(id("world"))
    dry = migrate(dry_run: true)
    refute client.load(ids[:hall]).exist?
    result = migrate(compare: true)
    assert_equal [dry.objects, dry.commands, 11], [result.objects, result.commands, result.objects]
    assert_equal [], result.differences
    assert_equal ["its container nowhere does not exist; it lies nowhere"], result.losses.map(&:what)
    hall = client.get_room(ids[:hall])
    assert_equal ["A hall ✓", { "north" => ids[:cavern] }], [hall.description, hall.exits.to_h]
    info = ES::Markers.load(ES::Codec.plain(hall.object.attributes["info"]))
    assert_equal [:urban, true, {}], [info.terrain.type, info.terrain.indoors, info.flags]
    cavern = client.get_room(ids[:cavern])
    assert_equal({ "south" => ids[:hall] }, cavern.exits.to_h)
    assert_equal ["Aethyr::Core::Objects::Cavern", 9],
      %w[class inventory_capacity].map { |key| ES::Codec.plain(cavern.object.attributes[key]) }
    alice = client.get_player(ids[:alice])
    assert_equal [HASH, true, ids[:hall], [ids[:bag]]],
                 [alice.password_hash, alice.admin, alice.object.container_id,
                  alice.object.inventory.map(&:item_id)]
    refute_includes alice.object.attributes.keys, "player"
    guard = client.get_game_object(ids[:guard])
    assert_equal({ "head" => ids[:cap], "torso/1" => ids[:coat] }, guard.equipment.to_h)
    assert_equal Set[:alice, "bob"], value(ids[:guard], "seen")
    assert_equal Time.at(1, 5, :nsec), value(ids[:guard], "born")
    assert_equal [2**70, "\xff".b], [value(ids[:cap], "big"), value(ids[:cap], "bytes")]
    assert_equal nest(30), value(ids[:coat], "deep")
    assert_predicate value(ids[:coat], "nan"), :nan?
    assert_equal [1, 2], ES::Codec.plain(client.get_game_object(ids[:bag]).inventory.first.position)
    assert_equal 0, client.rebuild_world_state.damaged_total
  end

  def value(id, key) = ES::Markers.load(ES::Codec.plain(client.get_game_object(id).attributes[key]))

  def test_a_second_run_stores_nothing_and_a_change_is_followed
    ids = world(id("world"))
    first = migrate
    assert_operator first.stored, :>, 20
    before = client.stats.last_position
    assert_equal 0, migrate.stored
    assert_equal 0, migrate(batch: 7).stored
    assert_equal before, client.stats.last_position
    @storage.store(O::GameObject.new(ids[:coin], name: "gold coin", generic: "coin", container: ids[:bag],
                                     quantity: 4))
    changed = migrate(compare: true)
    assert_equal [1, []], [changed.stored, changed.differences]
  end

  # A client whose connection breaks at this call of `execute`, before it or after its answer was lost.
  def broken(at, after: false)
    calls = 0
    SimpleDelegator.new(client).tap do |broken|
      broken.define_singleton_method(:execute) do |commands, **options|
        breaks = (calls += 1) == at
        __getobj__.execute(commands, **options) if !breaks || after
        raise ES::DeadlineExceeded, "gone" if breaks

        __getobj__.execute(commands, **options)
      end
    end
  end

  def test_a_run_that_broke_is_continued
    ids = world(id("world"))
    [false, true].each do |after|
      assert_raises(ES::DeadlineExceeded) do
        ES::Migration.run(@storage, broken(after ? 2 : 3, after: after), batch: 5)
      end
    end
    assert client.load(ids[:alice]).exist?
    assert_equal [], migrate(compare: true).differences
    assert_equal 0, migrate.stored
  end

  # Everything that may change, there and back.
  def test_a_change_there_and_back_is_stored
    ids = world(id("world"))
    first = @storage.copy
    migrate
    there = changed_world(ids)
    @storage = there
    assert_equal [[], []], migrate(compare: true).then { |result| [result.losses, result.differences] }
    assert_equal ids[:cavern], client.get_game_object(ids[:coin]).container_id
    @storage = first
    back = migrate(compare: true)
    assert_operator back.stored, :>, 8
    assert_equal [], back.differences
    assert_equal [ids[:bag], { "head" => ids[:cap], "torso/1" => ids[:coat] }, HASH, true, "A hall ✓"],
                 [client.get_game_object(ids[:coin]).container_id,
                  client.get_game_object(ids[:guard]).equipment.to_h,
                  client.get_player(ids[:alice]).password_hash, client.get_player(ids[:alice]).admin,
                  client.get_room(ids[:hall]).description]
    @storage = there
    assert_operator migrate.stored, :>, 8
    assert_equal [0, []], migrate(compare: true).then { |result| [result.stored, result.differences] }
  end

  # The coin lies in the cavern, cap and coat have changed their slots, the hall has another description and
  # no exit north, Alice is no administrator and has another password.
  def changed_world(ids)
    storage = @storage.copy
    storage.store(O::GameObject.new(ids[:coin], name: "coin", generic: "penny", container: ids[:cavern],
                                                quantity: 4))
    storage.store(O::GameObject.new(ids[:bag], name: "", generic: "bag", inventory: Inventory.new))
    storage.store(O::Mobile.new(ids[:guard], name: "guard", generic: "guard", container: ids[:hall],
                                equipment: Equipment.new({ head: [ids[:coat]], torso: [nil, ids[:cap]] },
                                                         [[ids[:cap], nil], [ids[:coat], nil]])))
    storage.store(O::Room.new(ids[:hall], name: "Great hall", generic: "room", long_desc: "Another",
                                          inventory: Inventory.new([[ids[:guard], nil]])))
    storage.store(O::Exit.new(ids[:north], name: "", alt_names: %w[n north], generic: "exit",
                                           exit_room: ids[:hall], container: ids[:cavern]))
    alice = O::Player.new(ids[:alice], name: "Alice", container: ids[:hall], admin: false,
                                       inventory: Inventory.new([[ids[:bag], nil]]))
    storage.player(alice, "alice", HASH.reverse)
    storage.store(O::GameObject.new(ids[:lost], name: "lost", generic: "lost", container: nil))
    storage
  end

  def test_what_is_gone_in_the_storage_is_removed
    ids = world(id("world"))
    migrate
    @storage = changed_world(ids)
    @storage.remove(ids[:cap])
    @storage.store(O::Mobile.new(ids[:guard], name: "guard", generic: "guard", container: nil,
                                equipment: Equipment.new({ torso: [nil, ids[:coat]] }, [[ids[:coat], nil]])))
    @storage.store(O::Room.new(ids[:hall], name: "Hall", generic: "room", long_desc: nil))
    result = migrate(compare: true)
    assert_equal [], result.differences
    assert_equal [[ids[:cap], "is in the service, and no longer in the storage"]],
                 result.losses.map { |loss| [loss.id, loss.what] }
    guard = client.get_game_object(ids[:guard])
    assert_equal [{ "torso/1" => ids[:coat] }, "", []],
                 [guard.equipment.to_h, guard.container_id, guard.inventory.to_a]
    refute_includes guard.attributes.keys, "seen"
    assert_equal "", client.get_game_object(ids[:bag]).name
    assert_equal "penny", value(ids[:coin], "generic")
    hall = client.get_room(ids[:hall])
    assert_equal ["", {}], [hall.description, hall.exits.to_h]
    refute client.get_player(ids[:alice]).admin
    assert_equal [0, 1], migrate.then { |again| [again.stored, again.losses.size] }
    client.execute({ delete_game_object: { id: ids[:cap] } })
    client.execute({ delete_game_object: { id: ids[:lost] } })
    assert_equal ["was deleted in the service; its id is not free again"], migrate.losses.map(&:what)
  end

  def test_places_in_an_inventory_are_exchanged
    bag, one, two = %w[bag one two].map { |name| id(name) }
    @storage = MemoryStorage.new
    [[[1, 1], [2, 2]], [[2, 2], [1, 1]], [[1, 1], nil], [nil, [1, 1]]].each do |places|
      pairs = [one, two].zip(places)
      @storage.store(O::GameObject.new(bag, name: "bag", inventory: Inventory.new(pairs)))
      [one, two].each { |each| @storage.store(O::GameObject.new(each, name: "coin")) }
      result = migrate(compare: true)
      assert_equal [[], []], [result.losses, result.differences]
      found = client.get_game_object(bag).inventory.to_h do |item|
        [item.item_id, ES::Codec.plain(item.position)]
      end
      assert_equal pairs.to_h, found
    end
  end

  def test_what_is_put_on_leaves_its_place_to_another
    bag, guard, one, two = %w[bag guard one two].map { |name| id(name) }
    @storage = MemoryStorage.new
    [one, two].each { |each| @storage.store(O::GameObject.new(each, name: "ring")) }
    @storage.store(O::GameObject.new(bag, name: "bag", inventory: Inventory.new([[two, 1]])))
    @storage.store(O::Mobile.new(guard, name: "guard", equipment: Equipment.new({ left: [one] }, [])))
    migrate
    @storage.store(O::GameObject.new(bag, name: "bag", inventory: Inventory.new([[one, 1]])))
    @storage.store(O::Mobile.new(guard, name: "guard", equipment: Equipment.new({ left: [two] }, [])))
    assert_equal [[], []], migrate(compare: true).then { |result| [result.losses, result.differences] }
    assert_equal({ "left" => two }, client.get_game_object(guard).equipment.to_h)
  end

  # The first save of the game has made plain objects of a room and of a player.
  def test_objects_that_the_game_recorded_first_are_carried_over_as_far_as_they_can
    ids = world(id("world"))
    %i[hall alice].each do |name|
      client.append({ aggregate_id: ids[name], type: "GameObject", event_type: "GameObjectCreated",
                      data: { name: name.to_s, generic: "it", container_id: nil, attributes: {} } },
                    expect: :new)
    end
    result = migrate(compare: true)
    assert_equal [], result.differences
    texts = result.losses.map(&:to_s).join("\n")
    assert_includes texts, "hall (Aethyr::Core::Objects::Room): is recorded as GameObject, not as Room; " \
                           "its exits are not carried over: north"
    assert_includes texts, "alice (Aethyr::Core::Objects::Player): is recorded as GameObject, not as " \
                           "Player; its password and whether it is an administrator are not carried over"
    assert_equal "A hall ✓", value(ids[:hall], "long_desc")
    assert_equal [ids[:hall], ["Alice", 7.5]],
                 [client.get_game_object(ids[:alice]).container_id,
                  [client.get_game_object(ids[:alice]).name, value(ids[:alice], "info").stats.health]]
    assert_equal 0, migrate.stored
  end

  def test_text_that_is_not_utf8_is_carried_over
    prefix = id("world")
    @storage = MemoryStorage.new
    hall = "#{prefix}-hall"
    @storage.store(O::Room.new(hall, name: "caf\xE9", generic: "r\xFC".b, long_desc: "caf\xE9",
                               keys: { "\xE9" => 1, "é".b => 2 }, symbol: "\xE9".b.to_sym, bytes: "\xE9",
                               info: Info.new(plain: "é".b)))
    @storage.store(O::Exit.new("#{prefix}-exit", name: "\xE9", alt_names: [], exit_room: hall,
                                                 container: hall))
    @storage.store(O::GameObject.new("#{prefix}-thing", name: "é".b, generic: "caf\xE9", long_desc: "\xFF"))
    dry = migrate(dry_run: true)
    result = migrate(compare: true)
    assert_equal [], result.differences
    assert_equal dry.losses.map(&:to_s), result.losses.map(&:to_s)
    assert_equal 3, result.objects
    texts = result.losses.map(&:to_s).join("\n")
    %w[name generic long_desc].each do |field|
      assert_includes texts, "hall (Aethyr::Core::Objects::Room): #{field}: is not UTF-8"
    end
    found = client.get_room(hall)
    assert_equal ["café", "café", "é"], [found.object.name, found.description, found.exits.keys.first]
    assert_equal [["\xE9".b, 1], ["é", 2]], value(hall, "keys").to_a
    assert_equal ["\xE9".b, "é"], [value(hall, "bytes").b, value(hall, "info").plain]
    assert_equal "é", client.get_game_object("#{prefix}-thing").name
    assert_equal 0, migrate.stored
  end

  def test_a_batch_that_is_too_large_is_divided
    prefix = id("world")
    @storage = MemoryStorage.new
    14.times { |n| @storage.store(O::GameObject.new("#{prefix}-#{n}", name: "n", text: "x" * 850_000)) }
    @storage.store(O::GameObject.new("#{prefix}-huge", name: "n", text: "x" * 12_000_000))
    result = migrate(compare: true)
    assert_equal ["#{prefix}-huge"], result.losses.map(&:id)
    assert_equal 1, result.differences.size
    assert client.load("#{prefix}-13").exist?
  end

  def test_the_program
    lib, support = File.expand_path("../lib", __dir__), File.join(__dir__, "support")
    exe = File.expand_path("../exe/aethyr-event-store-migrate", __dir__)
    Dir.mktmpdir do |dir|
      Dir.mkdir("#{dir}/conf")
      File.write("#{dir}/conf/config.yaml", ":admin: root\nevent_store_address: #{service.address}\n")
      play = lambda do |*arguments|
        Open3.capture3(RbConfig.ruby, "-W0", "-I", lib, "-I", "#{support}/game", "-rset", "-r",
                       "aethyr/event_store/aethyr", exe, *arguments, chdir: dir)
      end
      out, err, status = play.call("--compare", "--report", "lost.jsonl")
      assert_includes out, "2 objects, 2 commands, 2 events stored"
      assert_includes out, "1 things could not be carried over"
      assert_equal [1, ""], [status.exitstatus, err.lines.grep(/Error|exe/).join]
      assert_includes JSON.parse(File.read("#{dir}/lost.jsonl"))["what"], "cannot be read"
      assert_includes play.call.first, " 0 events stored"
      out, err, status = play.call("--address", "aethyr://nobody?x=1")
      assert_equal [64, "", 1], [status.exitstatus, out, err.lines.size]
      out, err, status = play.call("--report", "no/such/folder")
      assert_equal [1, 0], [status.exitstatus, err.lines.grep(/\bfrom\b.*exe|\.rb:\d/).size]
      assert_includes out, "2 objects"
    end
  end

  def test_what_cannot_be_carried_over_is_reported_and_hinders_nothing
    prefix = id("world")
    ids = world(prefix)
    @storage.files["goids"]["#{prefix}-ghost"] = "Aethyr::Core::Objects::Mobile"
    @storage.files["goids"]["#{prefix}-broken"] = "Aethyr::Core::Objects::Mobile"
    @storage.files["Aethyr::Core::Objects::Mobile"]["#{prefix}-broken"] = "\x04\bo:\x0bNoSuchX\x00"
    @storage.store(O::GameObject.new("#{prefix}-a", name: "a", container: "#{prefix}-b"))
    @storage.store(O::GameObject.new("#{prefix}-b", name: "b", container: "#{prefix}-a"))
    @storage.store(O::GameObject.new("#{prefix}-big", name: "big", text: "x" * 950_000))
    @storage.store(O::GameObject.new("#{prefix}-proc", name: "tab\there", hook: Class))
    @storage.player(O::Player.new("#{prefix}-bob", name: "Bob",
                                  inventory: Inventory.new([["#{prefix}-gone", nil], [ids[:coin], nil]])),
                                  "bob", "migrated")
    @storage.player(O::Player.new("#{prefix}-carl", name: "", inventory: nil), "carl", nil)
    result = migrate(compare: false)
    texts = result.losses.map(&:to_s).join("\n")
    ["ghost (Aethyr::Core::Objects::Mobile): listed in goids",
     "broken (Aethyr::Core::Objects::Mobile): cannot be read",
     "big (Aethyr::Core::Objects::GameObject): create_game_object", "became \"tab here\"",
     "its password: what is stored is no hash",
     "has no password", "#{prefix}-gone, which does not exist", "the first counts",
     "lies in itself"].each do |text|
      assert_includes texts, text
    end
    assert_equal "Carl", client.get_player("#{prefix}-carl").object.name.capitalize
    assert client.load(ids[:hall]).exist?
    assert_equal "Class", value("#{prefix}-proc", "hook")
    assert_equal 0, migrate.stored
  end

  def test_uuids_are_of_version_5
    assert_match(/\A\h{8}-\h{4}-5\h{3}-[89ab]\h{3}-\h{12}\z/, ES::Migration::Plan.uuid("x"))
    assert_equal ES::Migration::Plan.uuid("x"), ES::Migration::Plan.uuid("x")
  end
end
