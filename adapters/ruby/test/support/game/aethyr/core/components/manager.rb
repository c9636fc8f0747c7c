# frozen_string_literal: true

# A stand-in of Aethyr's storage with a small world, for the program of the migration.
require_relative "../../../../objects"

raise "the migration records what the game does" if ServerConfig[:event_sourcing_enabled]

class StorageMachine < MemoryStorage
  O = Aethyr::Core::Objects

  def initialize(_folder)
    super()
    store(O::GameObject.new("stone", name: "stone"))
    store(O::GameObject.new("tree", name: "tree"))
    files["goids"]["broken"] = "Aethyr::Core::Objects::GameObject"
    files["Aethyr::Core::Objects::GameObject"]["broken"] = "\x04\bo:\x0b\xE9oSuchX\x00".b
  end
end
