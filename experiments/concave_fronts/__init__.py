"""Which scalarisations reach a front that bends inwards, and for which policies it does."""
