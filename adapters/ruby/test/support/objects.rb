# frozen_string_literal: true

# Owns a stand-in of Aethyr's objects and of its storage (GDBM files of marshalled objects), in memory.
require "ostruct"
require "set"

class Info < OpenStruct; end

# Saved as a list of [id, position], and the capacity as its last element; each gives the pairs after that.
class Inventory
  attr_reader :capacity

  def initialize(pairs = [], capacity = nil)
    @pairs = pairs
    @capacity = capacity
  end

  def each(&block) = @pairs.each { |pair| block.call(pair) }
  def marshal_dump = [*@pairs, @capacity]

  def marshal_load(list)
    @capacity = list.pop
    @pairs = list
  end
end

class Equipment
  def initialize(equipment, pairs)
    @equipment = equipment
    @inventory = Inventory.new(pairs)
  end
end

module Aethyr
  module Core
    module Objects
      class GameObject
        def initialize(id, **variables)
          @game_object_id = id
          variables.each { |name, value| instance_variable_set("@#{name}", value) }
        end

        attr_reader :name, :generic, :container

        def goid = @game_object_id

        # As in Aethyr: every name is answered.
        def method_missing(*) = nil
        def respond_to_missing?(*) = false
      end

      class Room < GameObject; end
      class Exit < GameObject; end
      class Player < GameObject; end
      class Mobile < GameObject; end
      class Cavern < Room; end
    end
  end
end

class MemoryStorage
  attr_reader :files

  def initialize
    @files = Hash.new { |files, name| files[name] = {} }
  end

  def open_store(name, _read_only = true) = yield(@files[name.to_s])

  def store(object)
    @files["goids"][object.goid] = object.class.name
    @files[object.class.name][object.goid] = Marshal.dump(object)
  end

  # Another storage with the same objects.
  def copy
    MemoryStorage.new.tap do |other|
      files.each { |name, pairs| other.files[name] = pairs.dup }
    end
  end

  def remove(id) = files.each_value { |pairs| pairs.delete(id) }

  def player(object, name, hash)
    @files["players"][name] = object.goid
    @files["passwords"][object.goid] = hash if hash
    store(object)
    @files["goids"].delete(object.goid)
  end
end
