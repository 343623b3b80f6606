"""The job that stores weights in the forms that were asked for, and reads them back."""
