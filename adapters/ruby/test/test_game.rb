# frozen_string_literal: true

# Owns the tests of how the adapter gets into Aethyr, on stand-ins of Aethyr and Sequent.
require "yaml"
require_relative "support/service"

class TestGame < Minitest::Test
  include Shared

  # Plays the game in a process of its own with this configuration.
  def play(config, pid: 0, first: true, script: [File.join(__dir__, "support", "play_game.rb")])
    Dir.mktmpdir do |dir|
      Dir.mkdir(File.join(dir, "conf"))
      File.write(File.join(dir, "conf", "config.yaml"), config)
      lib, game = File.expand_path("../lib", __dir__), File.join(__dir__, "support", "aethyr")
      # Before Aethyr, as with RUBYOPT, or after it.
      load = first ? ["-r", "aethyr/event_store/aethyr"] : []
      out = IO.popen({ "SERVICE_PID" => pid.to_s, "SEQUENT_REAL" => nil },
                     [RbConfig.ruby, "-W0", "-I", lib, "-I", game, "-rset", "-rjson", *load, *script],
                     chdir: dir, &:read)
      @config = YAML.safe_load(File.read(File.join(dir, "conf", "config.yaml")), permitted_classes: [Symbol])
      JSON.parse(out)
    end
  end

  def test_without_the_line_nothing_changes
    found = play(":admin: root\n:event_sourcing_enabled: false\n")
    assert_equal({ "enabled" => false, "has" => false }, found)
    found = play(":admin: root\n:event_sourcing_enabled: true\n")
    assert_equal "Aethyr::Core::EventSourcing::ImmudbEventStore", found["store"]
  end

  # As Aethyr does if Sequent cannot be loaded.
  def test_the_game_may_switch_event_sourcing_off
    script = ["-e", 'require "aethyr/core/util/config"; was = ServerConfig[:event_sourcing_enabled]; ' \
                    "ServerConfig[:event_sourcing_enabled] = false; " \
                    "puts [was, ServerConfig[:event_sourcing_enabled], " \
                    "ServerConfig.event_sourcing_enabled].to_json"]
    config = "event_store_address: nobody\n:event_sourcing_enabled: true\n"
    assert_equal [true, false, false], play(config, script: script)
    assert_equal({ "event_store_address" => "nobody", event_sourcing_enabled: true }, @config)
  end

  def test_one_line_is_enough
    own = ES::TestService.new.start
    found = play(":admin: root\n:event_sourcing_enabled: false\nevent_store_address: #{own.address}\n",
                 pid: own.pid)
    assert_nil found["error"]
    # What Aethyr saves at its start has nothing of this gem but the line.
    assert_equal({ admin: "root", event_sourcing_enabled: false, log_level: 2,
                   "event_store_address" => own.address }, @config)
    assert found["has"]
    assert_equal({ "hall" => "café", "cave" => true, "password" => "6ebe2294ecd0e08f08eab7690d2a6ee6",
                   "inside" => true, "bob" => "", "stone" => "GameObject", "disk" => "the disk is full" },
                 found["kinds"].except("alice"))
    assert_equal [0, [nil, false], ["quest log", 1]], found.values_at("nobody", "rebuilds", "other")
    assert_equal [true, "Aethyr::EventStore::AethyrEventStore"], found.values_at("enabled", "store")
    assert_equal 12, found["compat"].size
    assert_equal ["Hall", "A dark hall.", true, "A dark hall."],
                 found.values_at("name", "description", "tags", "world")
    assert_equal %w[Room GameObjectCreated], found["types"].first
    assert_equal ["tags"], found["removed"]
    assert_equal ["StorageMachine", 0, 12, 1], found.values_at("storage", "rebuilt", "again", "handlers")
    assert_equal 5, found["stats"]["event_count"]
    assert_equal 1, found["stats"]["event_types"]["Aethyr::Core::EventSourcing::RoomCreated"]
    assert_equal [6, 6, "Again.", 6, 6, "RoomDescriptionUpdated"], found["aethyr"]
    check_commands(found)
    assert_operator found["outage"], :<, 0.8
    assert_equal "UNREACHABLE", found["gone"]
    lines = found["log"].grep(/stored, but its event was not recorded/)
    assert_equal [5, 1], [lines.grep(/store_object/).size, lines.grep(/set_password/).size]
  ensure
    own&.close
  end

  def check_commands(found)
    lines = found["lines"]
    assert_equal 8, lines.size
    assert_includes lines[0], 'description: "A hall." -> "A dark hall."'
    assert_includes lines[0], "by Alice"
    assert_equal 2, lines[1].lines.size
    assert_includes lines[2], "Nothing is recorded"
    assert_includes lines[3], "STATE_LOCAL_ONLY"
    assert_includes lines[4], "Alice: RoomDescriptionUpdated"
    assert_includes lines[5], "Nothing by nobody"
    assert_includes lines[6], "Alice: RoomDescriptionUpdated"
    assert_equal "Alice", found["actor"]
    assert_includes lines[7], "password_hash: (changed)"
    refute_match(/\h{32}/, lines[7])
  end
end
