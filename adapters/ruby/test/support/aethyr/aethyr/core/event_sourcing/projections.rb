# frozen_string_literal: true

# A stand-in of Aethyr's projectors, which name their tables by symbols.
module Aethyr
  module Core
    module EventSourcing
      class RoomProjector
        def self.managed_tables = [:rooms]
        def handle_message(_event) = raise("undefined method `table_name' for :rooms")
      end
    end
  end
end
