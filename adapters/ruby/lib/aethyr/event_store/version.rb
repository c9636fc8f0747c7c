# frozen_string_literal: true

# Owns the version of the gem.
module Aethyr
  module EventStore
    VERSION = "0.2.0"
  end
end
