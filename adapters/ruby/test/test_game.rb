# frozen_string_literal: true

# Owns the tests of how the adapter gets into Aethyr, on stand-ins of Aethyr and Sequent.
require_relative "support/service"

class TestGame < Minitest::Test
  include Shared

  # Plays the game in a process of its own with this configuration.
  def play(config, pid: 0, first: true)
    Dir.mktmpdir do |dir|
      Dir.mkdir(File.join(dir, "conf"))
      File.write(File.join(dir, "conf", "config.yaml"), config)
      lib, game = File.expand_path("../lib", __dir__), File.join(__dir__, "support", "aethyr")
      # Before Aethyr, as with RUBYOPT, or after it.
      load = first ? ["-r", "aethyr/event_store/aethyr"] : []
      out = IO.popen({ "SERVICE_PID" => pid.to_s, "SEQUENT_REAL" => nil },
                     [RbConfig.ruby, "-W0", "-I", lib, "-I", game, "-rset", *load,
                      File.join(__dir__, "support", "play_game.rb")],
                     chdir: dir, &:read)
      JSON.parse(out)
    end
  end

  def test_without_the_line_nothing_changes
    found = play(":admin: root\n:event_sourcing_enabled: false\n")
    assert_equal({ "enabled" => false }, found)
    found = play(":admin: root\n:event_sourcing_enabled: true\n")
    assert_equal "Aethyr::Core::EventSourcing::ImmudbEventStore", found["store"]
  end

  def test_one_line_is_enough
    own = ES::TestService.new.start
    found = play(":admin: root\n:event_sourcing_enabled: false\nevent_store_address: #{own.address}\n",
                 pid: own.pid)
    assert_nil found["error"]
    assert_equal [true, "Aethyr::EventStore::AethyrEventStore"], found.values_at("enabled", "store")
    assert_equal 10, found["compat"].size
    assert_equal ["Hall", "A dark hall.", true, "A dark hall."],
                 found.values_at("name", "description", "tags", "world")
    assert_equal %w[Room GameObjectCreated], found["types"].first
    assert_equal ["tags"], found["removed"]
    assert_equal ["StorageMachine", 0, 10, 1], found.values_at("storage", "rebuilt", "again", "handlers")
    assert_equal 5, found["stats"]["event_count"]
    assert_equal 1, found["stats"]["event_types"]["Aethyr::Core::EventSourcing::RoomCreated"]
    assert_equal [6, 6, "Again.", 6, 6, "RoomDescriptionUpdated"], found["aethyr"]
    check_commands(found)
    assert_operator found["outage"], :<, 0.8
    assert_equal "UNREACHABLE", found["gone"]
    assert_equal 5, found["log"].grep(/stored, but its event was not recorded/).size
  ensure
    own&.close
  end

  def check_commands(found)
    lines = found["lines"]
    assert_equal 7, lines.size
    assert_includes lines[0], 'description: "A hall." -> "A dark hall."'
    assert_includes lines[0], "by Alice"
    assert_equal 2, lines[1].lines.size
    assert_includes lines[2], "Nothing is recorded"
    assert_includes lines[3], "STATE_LOCAL_ONLY"
    assert_includes lines[4], "Alice: RoomDescriptionUpdated"
    assert_includes lines[5], "Nothing by nobody"
    assert_includes lines[6], "Alice: RoomDescriptionUpdated"
    assert_equal "Alice", found["actor"]
  end
end
