# frozen_string_literal: true

# Owns the tests of the migration, over a stand-in of Aethyr's storage.
require_relative "support/service"
require_relative "support/objects"
require "aethyr/event_store/migration"

class TestMigration < Minitest::Test
  include Shared

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
    assert_equal [2, []], [changed.stored, changed.differences]
  end

  def test_a_run_that_broke_is_continued
    ids = world(id("world"))
    sent = 0
    broken = Object.new
    real = client
    broken.define_singleton_method(:execute) do |commands, **options|
      raise ES::DeadlineExceeded, "gone" if (sent += 1) == 3

      real.execute(commands, **options)
    end
    assert_raises(ES::DeadlineExceeded) { ES::Migration.run(@storage, broken, batch: 5) }
    assert client.load(ids[:alice]).exist?
    assert_equal [], migrate(compare: true).differences
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
     "which is inside it"].each do |text|
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
