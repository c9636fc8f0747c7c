# frozen_string_literal: true

# A stand-in of Aethyr's own event store, which nobody may get with an address in the configuration.
module Aethyr
  module Core
    module EventSourcing
      class ImmudbEventStore
        def statistics = { own: true }
      end
    end
  end
end
