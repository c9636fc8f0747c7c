# frozen_string_literal: true

# Owns the version of the gem.
module Aethyr
  module EventStore
    VERSION = "0.3.0"
  end
end
