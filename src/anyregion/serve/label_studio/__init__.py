"""A machine learning back end of Label Studio, under `/label-studio` of the service."""
