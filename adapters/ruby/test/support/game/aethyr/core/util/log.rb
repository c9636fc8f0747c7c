# frozen_string_literal: true

# A stand-in of Aethyr's log.
